package oci

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
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// mirrored returns a Registry for which team.example is at a host, with mirrors.
func mirrored(t *testing.T, more, host string, mirrors ...string) *Registry {
	t.Helper()
	text := "[[registry]]\nprefix = 'team.example'\nlocation = '" + host + "/team'\n" + more
	for _, mirror := range mirrors {
		text += "\n[[registry.mirror]]\nlocation = '" + mirror + "/copy'\n"
	}
	var conf registriesConf
	must(t, conf.add("some.conf", text))
	r := impatient()
	r.conf = func() (registriesConf, error) { return conf, nil }
	return r
}

var ofTeam = ImageRef{Name: "docker://team.example/app:1"}

func TestMirrors(t *testing.T) {
	first, second, primary := serve(t, httptest.NewServer), serve(t, httptest.NewServer), serve(t, httptest.NewServer)
	img := image(t, 100_000)
	primary.push("team/app:1", img)
	forget := func() {
		for _, s := range []*served{first, second, primary} {
			s.stand(nil)
		}
	}
	check := func(what string, r *Registry, ref ImageRef, manifests ...int) {
		t.Helper()
		base, err := take(t, newStore(t), r, ref)
		if err != nil || base.Manifest != digestOf(t, img) || base.Ref != ref.Name {
			t.Errorf("%s: %+v, %v", what, base, err)
		}
		for i, s := range []*served{first, second, primary} {
			if got := s.count("GET /v2/") - s.count("GET /v2/ "); (got > 0) != (manifests[i] > 0) {
				t.Errorf("%s: registry %d was asked %d times", what, i, got)
			}
		}
		forget()
	}
	all := func() *Registry { return mirrored(t, "", primary.host, first.host, second.host) }

	forget()
	check("no mirror has it", all(), ofTeam, 1, 1, 1)
	second.push("copy/app:1", img)
	forget()
	check("the second has it", all(), ofTeam, 1, 1, 0)
	pinned := ImageRef{Name: "docker://team.example/app@" + digestOf(t, img).String()}
	byDigest := mirrored(t, "mirror-by-digest-only = true", primary.host, second.host)
	check("a tag, mirrors for digests", byDigest, ofTeam, 0, 0, 1)
	check("a digest, mirrors for digests", byDigest, pinned, 0, 1, 0)
	check("a mirror is gone", mirrored(t, "", primary.host, "127.0.0.1:1", second.host), ofTeam, 0, 1, 0)

	// One that fails in the middle: the next goes on.
	var cuts atomic.Int64
	cuts.Store(1000)
	second.stand(cutAfter(60_000, true, &cuts))
	second.mu.Lock()
	cut := second.between
	second.between = func(next http.Handler) http.Handler {
		return cut(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, req)
		}))
	}
	second.mu.Unlock()
	var ranges atomic.Int64
	primary.stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Range") != "" {
				ranges.Add(1)
			}
			next.ServeHTTP(w, req)
		})
	})
	check("a mirror that cuts", all(), ofTeam, 1, 1, 1)
	if ranges.Load() == 0 {
		t.Error("the primary location began from nothing")
	}

	// One that lies: what it gives is not used.
	second.stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				w = &lyingWriter{w}
			}
			next.ServeHTTP(w, req)
		})
	})
	check("a mirror that lies", all(), ofTeam, 1, 1, 1)
}

// lyingWriter changes what is sent.
type lyingWriter struct{ http.ResponseWriter }

func (w *lyingWriter) Write(p []byte) (int, error) {
	lie := append([]byte{}, p...)
	lie[len(lie)/2]++
	return w.ResponseWriter.Write(lie)
}

// An index in a mirror, for a platform.
func TestMirrorOfIndex(t *testing.T) {
	mirror, primary := serve(t, httptest.NewServer), serve(t, httptest.NewServer)
	img := image(t, 100)
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	mirror.push("copy/app:1", index)
	base, err := take(t, newStore(t), mirrored(t, "", primary.host, mirror.host), ofTeam)
	if err != nil || base.Manifest != digestOf(t, img) || primary.count("") > 0 {
		t.Errorf("%+v, %v, %d requests to the primary location", base, err, primary.count(""))
	}
}

func TestErrorsOfMirrors(t *testing.T) {
	mirror, primary := serve(t, httptest.NewServer), serve(t, httptest.NewServer)
	_, err := mirrored(t, "", primary.host, mirror.host, "127.0.0.1:1").Resolve(t.Context(), ofTeam, amd64)
	if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	for _, want := range []string{"docker://team.example/app:1: not found", "before that, the mirror " + mirror.host + "/copy/app: not found", ", the mirror 127.0.0.1:1/copy/app: registry not reachable"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	_, err = mirrored(t, "", "127.0.0.1:1", mirror.host).Resolve(t.Context(), ofTeam, amd64)
	if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	blocked := mirrored(t, "blocked = true", primary.host)
	if _, err = blocked.Resolve(t.Context(), ofTeam, amd64); err == nil || !strings.HasSuffix(err.Error(), "registry team.example is blocked by some.conf") {
		t.Error(err)
	}
	p := &Publisher{registry: blocked}
	if err := p.Check(ofTeam.Name); err == nil || !strings.HasSuffix(err.Error(), "registry team.example is blocked by some.conf") {
		t.Error(err)
	}
}

// A registry whose certificate only certs.d knows, and which wants one of us.
func TestCertificates(t *testing.T) {
	folder := t.TempDir()
	authority, key := certificate(t, nil, nil)
	client, clientKey := certificate(t, authority, key)
	server := serve(t, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		pool := x509.NewCertPool()
		pool.AddCert(authority)
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
		s.StartTLS()
		writePEM(t, filepath.Join(folder, "server.crt"), "CERTIFICATE", s.Certificate().Raw)
		return s
	})
	server.host = strings.TrimPrefix(server.host, "https://")
	dir := filepath.Join(folder, "certs.d", server.host)
	must(t, os.MkdirAll(dir, 0o755))
	secret, err := x509.MarshalPKCS8PrivateKey(clientKey)
	must(t, err)
	writePEM(t, filepath.Join(dir, "me.cert"), "CERTIFICATE", client.Raw)
	writePEM(t, filepath.Join(dir, "me.key"), "PRIVATE KEY", secret)
	r := func() *Registry {
		r := impatient()
		r.certs = certFolders{filepath.Join(folder, "missing"), filepath.Join(folder, "certs.d")}
		return r
	}

	ref := ImageRef{Name: server.host + "/app:1"}
	if _, err := r().Resolve(t.Context(), ref, amd64); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certs.d/"+server.host) {
		t.Errorf("without its authority: %v", err)
	}
	must(t, os.Rename(filepath.Join(folder, "server.crt"), filepath.Join(dir, "ca.crt")))
	named, err := ref.parse()
	must(t, err)
	config, err := r().certs.lookup(named.Context().Registry)
	must(t, err)
	img := image(t, 1000)
	server.push("app:1", img, remote.WithTransport(newTransport(config, false, time.Microsecond)))
	base, err := take(t, newStore(t), r(), ref)
	if err != nil || base.Manifest != digestOf(t, img) {
		t.Error(err)
	}

	must(t, os.Remove(filepath.Join(dir, "me.key")))
	if _, err := r().Resolve(t.Context(), ref, amd64); err == nil || !strings.Contains(err.Error(), "me.cert and its .key: ") {
		t.Error(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), "nothing")
	must(t, os.Remove(filepath.Join(dir, "me.cert")))
	if _, err := r().Resolve(t.Context(), ref, amd64); err == nil || !strings.Contains(err.Error(), "ca.crt holds no certificate in PEM") {
		t.Error(err)
	}
	must(t, os.Remove(filepath.Join(dir, "ca.crt")))
	ref.Insecure = true
	if _, err := r().Resolve(t.Context(), ref, amd64); err == nil {
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
