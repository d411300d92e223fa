package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// certFolders contain a folder per registry, named host or host:port, as
// containers-certs.d(5) describes: NAME.crt are authorities to trust besides the
// system's, NAME.cert and NAME.key identify the client. The first folder found for a
// registry is used alone.
type certFolders []string

func defaultCertFolders() (folders certFolders) {
	if dir, err := os.UserConfigDir(); err == nil {
		folders = append(folders, filepath.Join(dir, "containers/certs.d"))
	}
	return append(folders, "/etc/containers/certs.d", "/etc/docker/certs.d")
}

// lookup returns a new TLS configuration for a registry.
func (c certFolders) lookup(registry name.Registry) (*tls.Config, error) {
	for _, folder := range c {
		for _, host := range plainHostNames(registry.RegistryStr()) {
			dir := filepath.Join(folder, host)
			entries, err := os.ReadDir(dir)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("certificates: %w", err)
			}
			return readCerts(dir, entries)
		}
	}
	return &tls.Config{}, nil
}

func readCerts(dir string, entries []os.DirEntry) (*tls.Config, error) {
	config := &tls.Config{}
	for _, entry := range entries {
		file := filepath.Join(dir, entry.Name())
		switch base, kind := strings.TrimSuffix(file, filepath.Ext(file)), filepath.Ext(file); kind {
		case ".crt":
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("certificates: %w", err)
			}
			if config.RootCAs == nil {
				if config.RootCAs, err = x509.SystemCertPool(); err != nil {
					return nil, fmt.Errorf("certificates of the system: %w", err)
				}
			}
			if !config.RootCAs.AppendCertsFromPEM(text) {
				return nil, fmt.Errorf("certificates: %s holds no certificate in PEM", file)
			}
		case ".cert":
			pair, err := tls.LoadX509KeyPair(file, base+".key")
			if err != nil {
				return nil, fmt.Errorf("certificates: %s and its .key: %w", file, err)
			}
			config.Certificates = append(config.Certificates, pair)
		}
	}
	return config, nil
}
