package registry

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/layerbuild/layerbuild/registry/registrytest"
)

// mirrored returns a Registry for which team.example is at a host, with mirrors.
func mirrored(t *testing.T, more, host string, mirrors ...string) *Client {
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

var ofTeam = Ref{Name: "docker://team.example/app:1"}

func TestMirrors(t *testing.T) {
	first, second, primary := registrytest.Serve(t, httptest.NewServer), registrytest.Serve(t, httptest.NewServer), registrytest.Serve(t, httptest.NewServer)
	img := registrytest.Image(t, 100_000)
	primary.Push("team/app:1", img)
	forget := func() {
		for _, s := range []*registrytest.Server{first, second, primary} {
			s.Stand(nil)
		}
	}
	check := func(what string, r *Client, ref Ref, manifests ...int) {
		t.Helper()
		base, err := take(t, r, ref)
		if err != nil || base != registrytest.Digest(t, img) {
			t.Errorf("%s: %+v, %v", what, base, err)
		}
		for i, s := range []*registrytest.Server{first, second, primary} {
			if got := s.Count("GET /v2/") - s.Count("GET /v2/ "); (got > 0) != (manifests[i] > 0) {
				t.Errorf("%s: registry %d was asked %d times", what, i, got)
			}
		}
		forget()
	}
	all := func() *Client { return mirrored(t, "", primary.Host, first.Host, second.Host) }

	forget()
	check("no mirror has it", all(), ofTeam, 1, 1, 1)
	second.Push("copy/app:1", img)
	forget()
	check("the second has it", all(), ofTeam, 1, 1, 0)
	pinned := Ref{Name: "docker://team.example/app@" + registrytest.Digest(t, img).String()}
	byDigest := mirrored(t, "mirror-by-digest-only = true", primary.Host, second.Host)
	check("a tag, mirrors for digests", byDigest, ofTeam, 0, 0, 1)
	check("a digest, mirrors for digests", byDigest, pinned, 0, 1, 0)
	check("a mirror is gone", mirrored(t, "", primary.Host, "127.0.0.1:1", second.Host), ofTeam, 0, 1, 0)

	// One that fails in the middle: the next goes on.
	var cuts atomic.Int64
	cuts.Store(1000)
	second.Stand(func(next http.Handler) http.Handler {
		return registrytest.CutAfter(60_000, true, &cuts)(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, req)
		}))
	})
	var ranges atomic.Int64
	primary.Stand(func(next http.Handler) http.Handler {
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
	second.Stand(func(next http.Handler) http.Handler {
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

func TestErrorsOfMirrors(t *testing.T) {
	mirror, primary := registrytest.Serve(t, httptest.NewServer), registrytest.Serve(t, httptest.NewServer)
	_, err := resolve(t.Context(), mirrored(t, "", primary.Host, mirror.Host, "127.0.0.1:1"), ofTeam)
	if !errors.Is(err, ErrNotFound) || errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	for _, want := range []string{"not found in the registry: check the repository and the tag; before that, the mirror " + mirror.Host + "/copy/app: not found", ", the mirror 127.0.0.1:1/copy/app: registry not reachable"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	_, err = resolve(t.Context(), mirrored(t, "", "127.0.0.1:1", mirror.Host), ofTeam)
	if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	blocked := mirrored(t, "blocked = true", primary.Host)
	if _, err = resolve(t.Context(), blocked, ofTeam); err == nil || !strings.HasSuffix(err.Error(), "registry team.example is blocked by some.conf") {
		t.Error(err)
	}
	if _, _, err := blocked.Repository(ofTeam, Push); err == nil || !strings.HasSuffix(err.Error(), "registry team.example is blocked by some.conf") {
		t.Error(err)
	}
}
