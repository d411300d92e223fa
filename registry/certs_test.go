package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/layerbuild/layerbuild/registry/registrytest"
)

// A registry whose certificate only certs.d knows, and which wants one of us.
func TestCertificates(t *testing.T) {
	folder := t.TempDir()
	authority, key := certificate(t, nil, nil)
	client, clientKey := certificate(t, authority, key)
	server := registrytest.Serve(t, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		pool := x509.NewCertPool()
		pool.AddCert(authority)
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
		s.StartTLS()
		writePEM(t, filepath.Join(folder, "server.crt"), "CERTIFICATE", s.Certificate().Raw)
		return s
	})
	dir := filepath.Join(folder, "certs.d", server.Host)
	must(t, os.MkdirAll(dir, 0o755))
	secret, err := x509.MarshalPKCS8PrivateKey(clientKey)
	must(t, err)
	writePEM(t, filepath.Join(dir, "me.cert"), "CERTIFICATE", client.Raw)
	writePEM(t, filepath.Join(dir, "me.key"), "PRIVATE KEY", secret)
	r := func() *Client {
		r := impatient()
		r.certs = certFolders{filepath.Join(folder, "missing"), filepath.Join(folder, "certs.d")}
		return r
	}

	ref := Ref{Name: server.Host + "/app:1"}
	if _, err := resolve(t.Context(), r(), ref); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certs.d/"+server.Host) {
		t.Errorf("without its authority: %v", err)
	}
	must(t, os.Rename(filepath.Join(folder, "server.crt"), filepath.Join(dir, "ca.crt")))
	named, err := ref.parse()
	must(t, err)
	config, err := r().certs.lookup(named.Context().Registry)
	must(t, err)
	img := registrytest.Image(t, 1000)
	server.Push("app:1", img, remote.WithTransport(newTransport(config, false, impatient().options)))
	base, err := take(t, r(), ref)
	if err != nil || base != registrytest.Digest(t, img) {
		t.Error(err)
	}

	must(t, os.Remove(filepath.Join(dir, "me.key")))
	if _, err := resolve(t.Context(), r(), ref); err == nil || !strings.Contains(err.Error(), "me.cert and its .key: ") {
		t.Error(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), "nothing")
	must(t, os.Remove(filepath.Join(dir, "me.cert")))
	if _, err := resolve(t.Context(), r(), ref); err == nil || !strings.Contains(err.Error(), "ca.crt holds no certificate in PEM") {
		t.Error(err)
	}
	must(t, os.Remove(filepath.Join(dir, "ca.crt")))
	ref.Insecure = true
	if _, err := resolve(t.Context(), r(), ref); err == nil {
		t.Error("no certificate of ours was asked for")
	}
}

// certificate makes one that another has signed, or it itself.
func certificate(t *testing.T, by *x509.Certificate, with *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: by == nil, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if by == nil {
		by, with = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), with)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c, key
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}
