package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/registry/registrytest"
)

// blob returns some content, its descriptor, and what opens it.
func blob(text string) (ispec.Descriptor, func() (io.ReadCloser, error)) {
	d := ispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(text), Size: int64(len(text))}
	return d, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
}

func repository(t *testing.T, c *Client, name string) *Repository {
	t.Helper()
	r, _, err := c.Repository(Ref{Name: name}, Push)
	must(t, err)
	return r
}

// What is pushed to a registry of Debian's is there, once, and mounted elsewhere.
func TestPush(t *testing.T) {
	host := registrytest.Docker(t)
	c := New(Options{Username: "user", Password: "s3cret", Pause: time.Microsecond})
	first, second := repository(t, c, host+"/team/first"), repository(t, c, host+"/second")
	d, open := blob("some content")
	for _, step := range []struct {
		to   *Repository
		sent bool
	}{{first, true}, {first, false}, {second, false}} {
		if sent, err := step.to.Upload(t.Context(), d, open); err != nil || sent != step.sent {
			t.Errorf("%s: sent %v, %v", step.to, sent, err)
		}
		if has, err := step.to.Has(t.Context(), d.Digest); err != nil || !has {
			t.Errorf("%s: has %v, %v", step.to, has, err)
		}
	}
	// Another client knows where it may be only if it is told.
	other := New(Options{Username: "user", Password: "s3cret", Pause: time.Microsecond})
	third := repository(t, other, host+"/third")
	if sent, err := third.Upload(t.Context(), d, open, "elsewhere.example/x", host+"/second:1"); err != nil || sent {
		t.Errorf("sent %v, %v", sent, err)
	}
	if has, err := third.Has(t.Context(), digest.FromString("other")); err != nil || has {
		t.Errorf("has %v, %v", has, err)
	}
	var got memory
	if err := third.Blob(t.Context(), d, &got); err != nil || got.String() != "some content" {
		t.Errorf("%q, %v", got.String(), err)
	}

	config, openConfig := blob("{}")
	_, err := first.Upload(t.Context(), config, openConfig)
	must(t, err)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":"application/x","config":{"mediaType":"application/x","digest":%q,"size":2},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":%d}]}`,
		ispec.MediaTypeImageManifest, config.Digest, d.Digest, d.Size)
	for _, identifier := range []string{"tag", digest.FromBytes(manifest).String()} {
		must(t, first.Put(t.Context(), identifier, ispec.MediaTypeImageManifest, manifest))
		text, kind, err := first.Manifest(t.Context(), identifier)
		if err != nil || !bytes.Equal(text, manifest) || kind != ispec.MediaTypeImageManifest {
			t.Errorf("%s: %s, %s, %v", identifier, text, kind, err)
		}
	}
	if _, err := second.Head(t.Context(), "tag"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// What cannot be read is no fault of the registry.
func TestUploadThatCannotBeRead(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	r := repository(t, impatient(), server.Host+"/app")
	d, _ := blob("some content")
	broken := errors.New("the disk is broken")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"opening": func() (io.ReadCloser, error) { return nil, broken },
		"reading": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("some"), failing{broken})), nil
		},
	} {
		if _, err := r.Upload(t.Context(), d, open); err == nil || err.Error() != broken.Error() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// A login that has expired is looked up once more, for whatever is done with it.
func TestLoginThatExpires(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	dir := t.TempDir()
	secret, asked := filepath.Join(dir, "secret"), filepath.Join(dir, "asked")
	must(t, os.WriteFile(filepath.Join(dir, "docker-credential-short"),
		fmt.Appendf(nil, "#!/bin/sh\necho >> %s\nprintf '{\"Username\":\"u\",\"Secret\":\"%%s\"}' \"$(cat %s)\"\n", asked, secret), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	auth := filepath.Join(dir, "auth.json")
	write(t, auth, fmt.Sprintf(`{"credHelpers":{%q:"short"}}`, server.Host))
	write(t, secret, "1")
	var valid atomic.Value
	valid.Store("1")
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			server.Stand(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					_, password, _ := req.BasicAuth()
					token := req.Header.Get("Authorization") == "Bearer "+valid.Load().(string)
					switch {
					case req.URL.Path == "/token" && password == valid.Load():
						fmt.Fprintf(w, `{"token":%q}`, password)
					case req.URL.Path != "/token" && (scheme == "Basic" && password == valid.Load() || scheme == "Bearer" && token):
						next.ServeHTTP(w, req)
					default:
						w.Header().Set("WWW-Authenticate", fmt.Sprintf(`%s realm="http://%s/token",service="x"`, scheme, server.Host))
						w.WriteHeader(http.StatusUnauthorized)
					}
				})
			})
			r := repository(t, impatient(auth), server.Host+"/app-"+strings.ToLower(scheme))
			d, open := blob(scheme)
			manifest := []byte(`{"schemaVersion":2}`)
			for i, do := range []func() error{
				func() error { _, err := r.Upload(t.Context(), d, open); return err },
				func() error { return r.Blob(t.Context(), d, &memory{}) },
				func() error { return r.Put(t.Context(), "tag", ispec.MediaTypeImageManifest, manifest) },
				func() error { _, err := r.Head(t.Context(), "tag"); return err },
				func() error { _, _, err := r.Manifest(t.Context(), "tag"); return err },
				func() error { _, err := r.Has(t.Context(), d.Digest); return err },
			} {
				now := fmt.Sprint(scheme, i)
				write(t, secret, now)
				valid.Store(now)
				must(t, os.RemoveAll(asked))
				if err := do(); err != nil {
					t.Errorf("%d: %v", i, err)
				}
				if lines, _ := os.ReadFile(asked); len(lines) != 1 {
					t.Errorf("%d: the helper was asked %d times", i, len(lines))
				}
			}
			valid.Store("nobody's")
			must(t, os.RemoveAll(asked))
			if err := r.Blob(t.Context(), d, &memory{}); !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "the credentials in "+auth+" were rejected") {
				t.Error(err)
			}
			if lines, _ := os.ReadFile(asked); len(lines) != 1 {
				t.Errorf("the helper was asked %d times", len(lines))
			}
		})
	}
}

// A token is asked for once a repository, however much is done there.
func TestOneToken(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	var tokens atomic.Int32
	server.Stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.URL.Path == "/token":
				tokens.Add(1)
				io.WriteString(w, `{"token":"t"}`)
			case req.Header.Get("Authorization") == "Bearer t":
				next.ServeHTTP(w, req)
			default:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, server.Host))
				w.WriteHeader(http.StatusUnauthorized)
			}
		})
	})
	c := impatient()
	for i := range 5 {
		r := repository(t, c, server.Host+"/app")
		d, open := blob(fmt.Sprint(i))
		_, err := r.Upload(t.Context(), d, open)
		must(t, err)
		must(t, r.Blob(t.Context(), d, &memory{}))
	}
	if tokens.Load() != 1 {
		t.Errorf("%d tokens", tokens.Load())
	}
}

// Each refusal is of one kind, whatever is done.
func TestKindsOfRefusals(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	r := repository(t, impatient(), server.Host+"/app")
	d, open := blob("x")
	for status, want := range map[int]error{
		401: ErrUnauthorized, 403: ErrForbidden, 404: ErrNotFound, 429: ErrTooManyRequests, 500: ErrServer, 503: ErrServer, 507: ErrServer, 400: nil, 415: nil,
	} {
		server.Stand(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/v2/" {
					next.ServeHTTP(w, req)
					return
				}
				w.WriteHeader(status)
			})
		})
		for i, do := range []func() error{
			func() error { return r.Blob(t.Context(), d, &memory{}) },
			func() error { return r.Put(t.Context(), "tag", ispec.MediaTypeImageManifest, []byte("{}")) },
			func() error { _, err := r.Upload(t.Context(), d, open); return err },
		} {
			err := do()
			var told *StatusError
			if !errors.As(err, &told) || told.Status != status || want != nil && !errors.Is(err, want) || told.Unwrap() != want {
				t.Errorf("%d, %d: %v", status, i, err)
			}
		}
	}
}

// A registry that says nothing, or takes nothing more, is given up in time.
func TestDeadlines(t *testing.T) {
	stop := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/v2/":
		case req.Method == http.MethodHead && strings.Contains(req.URL.Path, "/blobs/"):
			w.WriteHeader(http.StatusNotFound)
		case req.Method == http.MethodPost:
			w.Header().Set("Location", "/v2/app/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
		default:
			<-stop
		}
	}))
	defer silent.Close()
	defer close(stop)
	c := New(Options{Pause: time.Microsecond, FirstByte: 50 * time.Millisecond, Stall: 100 * time.Millisecond, Attempts: 1})
	r := repository(t, c, strings.TrimPrefix(silent.URL, "http://")+"/app")
	d, _ := blob("")
	d.Size = 1 << 30
	begun := time.Now()
	if _, err := r.Head(t.Context(), "tag"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "nothing came for too long") {
		t.Error(err)
	}
	_, err := r.Upload(t.Context(), d, func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(zeros{}, d.Size)), nil
	})
	if !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("given up after %s", took)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What is sent is sent again after the time that the registry asks for.
func TestRetryAfterOfUploads(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	r := repository(t, impatient(), server.Host+"/app")
	d, open := blob("x")
	var busy, asked atomic.Int32
	server.Stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if (req.Method == http.MethodPatch || req.Method == http.MethodPut) && busy.Add(-1) >= 0 {
				asked.Add(1)
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	busy.Store(2)
	if _, err := r.Upload(t.Context(), d, open); err != nil {
		t.Error(err)
	}
	busy.Store(2)
	must(t, r.Put(t.Context(), "tag", ispec.MediaTypeImageManifest, []byte("{}")))
	if asked.Load() != 4 {
		t.Errorf("turned away %d times", asked.Load())
	}
}
