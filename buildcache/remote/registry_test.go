package remote

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/registry/registrytest"
)

func open(t *testing.T, host string, access registry.Access) *Registry {
	t.Helper()
	r, err := NewRegistry(registry.New(ClientOptions()), Place{Type: TypeRegistry, Name: host + "/team/cache"}, access)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// login has credentials files name a password for a registry.
func login(t *testing.T, host, password string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.json")
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", file)
}

// Debian's registry, which wants a password, takes what a build writes, and gives it to
// one that reads.
func TestDockerRegistry(t *testing.T) {
	host := registrytest.Docker(t)
	login(t, host, "s3cret")
	app := &build{t: t, at: open(t, host, registry.Push), key: newKey(t), layer: "app"}
	if err := app.write(nil); err != nil {
		t.Fatal(err)
	}
	app.at = open(t, host, registry.Pull)
	if !app.hits(app.reader()) || len(app.warns) > 0 {
		t.Errorf("what was written is not found: %q", app.warns)
	}
	login(t, host, "wrong")
	app.at = open(t, host, registry.Pull)
	if app.hits(app.reader()) || len(app.warns) != 1 || !strings.Contains(app.warns[0], "rejected") || strings.Contains(app.warns[0], "wrong") {
		t.Errorf("a wrong password: %q", app.warns)
	}
}

// A registry that is dead, slow or broken costs its time once, and a warning.
func TestRegistryFaults(t *testing.T) {
	answer := func(status int) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "60")
				w.WriteHeader(status)
			})
		}
	}
	body := func(text string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if !strings.Contains(req.URL.Path, "/manifests/") {
					next.ServeHTTP(w, req)
					return
				}
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
				_, _ = w.Write([]byte(text))
			})
		}
	}
	stall := func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	}
	var cuts atomic.Int64
	for name, stand := range map[string]func(http.Handler) http.Handler{
		"403":       answer(http.StatusForbidden),
		"429":       answer(http.StatusTooManyRequests),
		"500":       answer(http.StatusInternalServerError),
		"503":       answer(http.StatusServiceUnavailable),
		"stalled":   stall,
		"truncated": body(`{"schemaVersion":2,"config":{"mediaTy`),
		"a page":    body("<html>log in</html>"),
		"cut": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { cuts.Add(1); panic(http.ErrAbortHandler) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := registrytest.Serve(t, httptest.NewServer)
			server.Stand(stand)
			app := &build{t: t, at: open(t, server.Host, registry.Pull), key: newKey(t), layer: "app"}
			r, start := app.reader(), time.Now()
			for range 3 {
				if app.hits(r) {
					t.Error("it hit")
				}
			}
			if took := time.Since(start); took > answerTime+2*time.Second {
				t.Errorf("it took %s", took)
			}
			if len(app.warns) != 1 {
				t.Errorf("warnings %q, want one", app.warns)
			}
		})
	}
}

// A registry that is busy for a moment is asked again, and is as good as any.
func TestBusyRegistry(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	app := &build{t: t, at: open(t, server.Host, registry.Push), key: newKey(t), layer: "app"}
	if err := app.write(nil); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	server.Stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/manifests/") && asked.Add(1) == 1 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	app.at = open(t, server.Host, registry.Pull)
	if !app.hits(app.reader()) || len(app.warns) > 0 {
		t.Errorf("what was written is not found: %q", app.warns)
	}
}
