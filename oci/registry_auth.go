package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// credentials are the files that hold logins, the first that has one for a
// repository counts. Their form is containers-auth.json(5), which is that of
// docker's config.json: within a file, the credential helper of a registry counts
// before an entry, the entry of a path before that of what it is below, and the
// helper for all registries comes last.
type credentials []string

// defaultCredentials is $REGISTRY_AUTH_FILE, or else podman's and docker's files.
func defaultCredentials() credentials {
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		return credentials{file}
	}
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if runtimeDir != "" {
		runtimeDir = filepath.Join(runtimeDir, "containers")
	} else {
		runtimeDir = filepath.Join("/run/containers", strconv.Itoa(outsideUID()))
	}
	var files credentials
	if _, err := os.Stat(runtimeDir); !errors.Is(err, fs.ErrPermission) { // in a folder of root's it is not ours
		files = append(files, filepath.Join(runtimeDir, "auth.json"))
	}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".docker/config.json"))
	}
	return files
}

// lookup returns the login for a repository and where it is from; the anonymous
// one and "" without any. No error holds a secret.
func (c credentials) lookup(ctx context.Context, repo name.Repository) (authn.Authenticator, string, error) {
	for _, file := range c {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("credentials: %w", err)
		}
		var auth authFile
		if err := json.Unmarshal(data, &auth); err != nil {
			return nil, "", fmt.Errorf("credentials: %s: not JSON as containers-auth.json(5) says", file)
		}
		found, err := auth.lookup(ctx, repo)
		if err != nil {
			return nil, "", fmt.Errorf("credentials: %s: %w", file, err)
		}
		if found != nil {
			return authn.FromConfig(*found), file, nil
		}
	}
	return authn.Anonymous, "", nil
}

// authFile is a file of credentials.
type authFile struct {
	Auths       map[string]json.RawMessage `json:"auths"` // each an authn.AuthConfig
	CredHelpers map[string]string          `json:"credHelpers"`
	CredsStore  string                     `json:"credsStore"`
}

// lookup returns nil when the file has no login for the repository.
func (f *authFile) lookup(ctx context.Context, repo name.Repository) (*authn.AuthConfig, error) {
	hosts := hostNames(repo.RegistryStr())
	for _, host := range hosts {
		if helper := f.CredHelpers[host]; helper != "" {
			return ask(ctx, helper, serverName(repo))
		}
	}
	for path := "/" + repo.RepositoryStr(); ; path = path[:strings.LastIndexByte(path, '/')] {
		for _, host := range hosts {
			entry, ok := f.Auths[host+path]
			if !ok {
				continue
			}
			var auth authn.AuthConfig
			if err := json.Unmarshal(entry, &auth); err != nil {
				return nil, fmt.Errorf("the entry of %s has no login that can be read", host+path)
			}
			if auth != (authn.AuthConfig{}) { // an empty one refers to credsStore
				return &auth, nil
			}
		}
		if path == "" {
			break
		}
	}
	if f.CredsStore != "" {
		return ask(ctx, f.CredsStore, serverName(repo))
	}
	return nil, nil
}

// hostNames are the names of a registry in files of credentials: old versions of
// docker wrote URLs.
func hostNames(host string) []string {
	return append(plainHostNames(host), "https://"+host, "https://"+host+"/v1/", "https://"+host+"/v2/")
}

// plainHostNames are the names that people call a registry by.
func plainHostNames(host string) []string {
	if host == name.DefaultRegistry {
		return []string{host, "docker.io"}
	}
	return []string{host}
}

func serverName(repo name.Repository) string {
	if repo.RegistryStr() == name.DefaultRegistry {
		return authn.DefaultAuthKey
	}
	return repo.RegistryStr()
}

// ask runs a credential helper, by docker's protocol. It returns nil when that has
// no login for the server.
func ask(ctx context.Context, helper, server string) (*authn.AuthConfig, error) {
	program := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = 100 * time.Millisecond // for what it has started, once it is killed
	var out bytes.Buffer
	cmd.Stdout = &out // where the protocol has errors, too
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if strings.Contains(out.String(), "credentials not found") {
			return nil, nil
		}
		return nil, fmt.Errorf("credential helper %s: %w%s", program, err, quoted(strings.TrimSpace(out.String())))
	}
	var found struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		return nil, fmt.Errorf("credential helper %s: its answer is not JSON", program)
	}
	if found.Username == "<token>" {
		return &authn.AuthConfig{IdentityToken: found.Secret}, nil
	}
	return &authn.AuthConfig{Username: found.Username, Password: found.Secret}, nil
}
