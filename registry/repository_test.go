package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/registry/registrytest"
)

// attempts is how often an impatient client tries.
const attempts = 4

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// impatient returns a Client that waits for no one, with logins of a test.
func impatient(files ...string) *Client {
	c := New(Options{Pause: time.Microsecond, Attempts: attempts})
	c.credentials, c.certs = Credentials{Files: files}, nil
	c.conf = func() (registriesConf, error) { return nil, nil }
	return c
}

// resolve returns what a name stands for.
func resolve(ctx context.Context, c *Client, ref Ref) (ispec.Descriptor, error) {
	image, err := c.Image(ref)
	if err != nil {
		return ispec.Descriptor{}, err
	}
	return image.Head(ctx)
}

// take reads the whole of an image and returns its digest.
func take(t *testing.T, c *Client, ref Ref) (digest.Digest, error) {
	t.Helper()
	image, err := c.Image(ref)
	if err != nil {
		return "", err
	}
	d, err := image.Head(t.Context())
	if err != nil {
		return "", err
	}
	data, err := image.Document(t.Context(), ispec.Descriptor{Digest: d.Digest})
	if err != nil {
		return "", err
	}
	var m ispec.Manifest
	must(t, json.Unmarshal(data, &m))
	m.Config.MediaType = ispec.MediaTypeImageConfig
	if _, err := image.Document(t.Context(), m.Config); err != nil {
		return "", err
	}
	for _, layer := range m.Layers {
		var got memory
		if err := image.Blob(t.Context(), layer, &got); err != nil {
			if errors.Is(err, ErrCorrupt) && got.Size() > 0 {
				t.Error("what is corrupt was kept")
			}
			return "", err
		}
		if got.Digest() != layer.Digest {
			t.Errorf("layer %s is %s", layer.Digest, got.Digest())
		}
	}
	return d.Digest, nil
}

// memory is a Sink.
type memory struct{ bytes.Buffer }

func (m *memory) Size() int64           { return int64(m.Len()) }
func (m *memory) Digest() digest.Digest { return digest.FromBytes(m.Bytes()) }
func (m *memory) Reset() error          { m.Buffer.Reset(); return nil }

// Registries that say less of a manifest than they should.
func TestHeadIsNotEnough(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	img := registrytest.Image(t, 100)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	for want, what := range map[digest.Digest]remote.Taggable{registrytest.Digest(t, img): img, registrytest.Digest(t, index): index} {
		ref := Ref{Name: server.Push("app", what)}
		for name, change := range map[string]func(http.ResponseWriter, *http.Request) bool{
			"no digest": func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Del("Docker-Content-Digest")
				return true
			},
			"another algorithm": func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Docker-Content-Digest", "md5:1")
				return true
			},
			"a vague type": func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", "application/json")
				return true
			},
			"no HEAD": func(w http.ResponseWriter, req *http.Request) bool {
				if req.Method == http.MethodHead {
					w.WriteHeader(http.StatusMethodNotAllowed)
				}
				return req.Method != http.MethodHead
			},
		} {
			server.Stand(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					changed := &changedHeader{ResponseWriter: w, change: func() bool { return change(w, req) }}
					next.ServeHTTP(changed, req)
				})
			})
			d, err := resolve(t.Context(), impatient(), ref)
			if err != nil || d.Digest != want {
				t.Errorf("%s: %v, %v", name, d, err)
			}
		}
		server.Stand(nil)
	}
}

// changedHeader lets a test change the answer of a registry before it is sent.
type changedHeader struct {
	http.ResponseWriter
	change func() bool // false when it has answered
	done   bool
	mute   bool
}

func (c *changedHeader) WriteHeader(status int) {
	if c.done {
		return
	}
	c.done = true
	if c.mute = !c.change(); !c.mute {
		c.ResponseWriter.WriteHeader(status)
	}
}

func (c *changedHeader) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.mute {
		return len(p), nil
	}
	return c.ResponseWriter.Write(p)
}

func TestBlobThatIsCut(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	ref := Ref{Name: server.Push("app", registrytest.Image(t, 300_000))}
	for _, c := range []struct {
		name   string
		ranges bool
		times  int64
		fails  bool
	}{
		{"continued", true, 6, false},
		{"from the start", false, 2, false},
		{"always at the same place", false, 1000, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var times atomic.Int64
			times.Store(c.times)
			server.Stand(registrytest.CutAfter(100_000, c.ranges, &times))
			_, err := take(t, impatient(), ref)
			if c.fails {
				if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "the connection was cut") {
					t.Error(err)
				}
				return
			}
			must(t, err)
		})
	}
}

// A body that stops coming is given up and continued.
func TestBlobThatStalls(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	ref := Ref{Name: server.Push("app", registrytest.Image(t, 300_000))}
	var once sync.Once
	server.Stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				once.Do(func() { w = stalledWriter{w, req.Context()} })
			}
			next.ServeHTTP(w, req)
		})
	})
	r := impatient()
	r.options.Stall = 50 * time.Millisecond
	_, err := take(t, r, ref)
	must(t, err)
}

type stalledWriter struct {
	http.ResponseWriter
	ctx context.Context
}

func (s stalledWriter) Write(p []byte) (int, error) {
	s.ResponseWriter.Write(p[:1])
	s.ResponseWriter.(http.Flusher).Flush()
	<-s.ctx.Done()
	panic(http.ErrAbortHandler)
}

func TestBlobIsGivenUp(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	img := registrytest.Image(t, 300_000)
	ref := Ref{Name: server.Push("app", img)}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	server.Stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				cancel(why)
				w = stalledWriter{w, req.Context()}
			}
			next.ServeHTTP(w, req)
		})
	})
	from, err := impatient().Image(ref)
	must(t, err)
	layers, err := img.Layers()
	must(t, err)
	size, err := layers[0].Size()
	must(t, err)
	if err := from.Blob(ctx, ispec.Descriptor{Digest: registrytest.Digest(t, layers[0]), Size: size}, &memory{}); !errors.Is(err, why) {
		t.Error(err)
	}
}

// What a registry gives is what its digest and size say, or it is refused.
func TestRegistryThatLies(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	ref := Ref{Name: server.Push("app", registrytest.Image(t, 1000))}
	for _, path := range []string{"/blobs/", "/manifests/sha256:"} {
		for name, lie := range map[string]func([]byte) []byte{
			"another byte": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"too short":    func(b []byte) []byte { return b[:len(b)-1] },
			"too long":     func(b []byte) []byte { return append(b, 0) },
			"nothing":      func(b []byte) []byte { return nil },
		} {
			server.Stand(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if !strings.Contains(req.URL.Path, path) {
						next.ServeHTTP(w, req)
						return
					}
					honest := httptest.NewRecorder()
					next.ServeHTTP(honest, req)
					w.Write(lie(honest.Body.Bytes()))
				})
			})
			if _, err := take(t, impatient(), ref); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s of %s: %v", name, path, err)
			}
		}
	}
}

func TestPinnedManifestIsAnother(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	ref := Ref{Name: server.Push("app", registrytest.Image(t, 100))}
	other := registrytest.Digest(t, registrytest.Image(t, 100))
	server.Stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			req.URL.Path = strings.Replace(req.URL.Path, other.String(), "latest", 1)
			next.ServeHTTP(w, req)
		})
	})
	if d, err := resolve(t.Context(), impatient(), Ref{Name: ref.Name + "@" + other.String()}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestRegistryThatIsBusy(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	ref := Ref{Name: server.Push("app", registrytest.Image(t, 100))}
	for status, want := range map[int]string{
		http.StatusServiceUnavailable: "the registry answers 503 Service Unavailable",
		http.StatusTooManyRequests:    "the registry allows no more requests for now (TOOMANYREQUESTS: slow[31m down): log in, or try later",
	} {
		for _, failures := range []int64{2, 1000} {
			var left atomic.Int64
			left.Store(failures)
			server.Stand(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.URL.Path == "/v2/" || left.Add(-1) < 0 {
						next.ServeHTTP(w, req)
						return
					}
					w.WriteHeader(status)
					if status == http.StatusTooManyRequests {
						io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\u001b[31m down"}]}`)
					}
				})
			})
			_, err := take(t, impatient(), ref)
			if (err != nil) != (failures > attempts) {
				t.Errorf("%d: %v", status, err)
			}
			if failures < attempts {
				continue
			}
			r, _, err := impatient().Repository(ref, Pull)
			must(t, err)
			_, _, err = r.Manifest(t.Context(), "latest") // an answer to HEAD has no text
			if err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
}

func TestErrorsOfRegistries(t *testing.T) {
	plain, secure := registrytest.Serve(t, httptest.NewServer), registrytest.Serve(t, httptest.NewTLSServer)
	secure.Host = strings.TrimPrefix(secure.Host, "https://")
	_, port, _ := strings.Cut(plain.Host, ":")
	gone := httptest.NewServer(nil)
	gone.Close()
	plain.Push("app:1", registrytest.Image(t, 100))
	for _, c := range []struct {
		ref  string
		is   error
		want string
	}{
		{plain.Host + "/app:2", ErrNotFound, "check the repository and the tag"},
		{plain.Host + "/other:1", ErrNotFound, "check the repository and the tag"},
		{strings.TrimPrefix(gone.URL, "http://") + "/app", ErrUnreachable, "connection refused: check the name, the network, and HTTPS_PROXY"},
		{"0.0.0.0:" + port + "/app:1", ErrUnreachable, "speaks plain http: set `insecure: true` if that is meant"},
		{secure.Host + "/app", ErrUnreachable, "put the certificate of its authority into /etc/containers/certs.d/" + secure.Host + "/ca.crt, or set `insecure: true`"},
	} {
		_, err := resolve(t.Context(), impatient(), Ref{Name: c.ref})
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "/v2/") {
			t.Errorf("%s: %v", c.ref, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := resolve(ctx, impatient(), Ref{Name: plain.Host + "/app:1"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A registry that wants a login: Debian's docker-registry with a password file.
func TestDockerRegistry(t *testing.T) {
	host := registrytest.Docker(t)
	img := registrytest.Image(t, 100_000)
	ref := Ref{Name: registrytest.Push(t, host+"/group/app:1", img, remote.WithAuth(&authn.Basic{Username: "user", Password: "s3cret"}))}
	auth := func(key, password string) string {
		file := filepath.Join(t.TempDir(), "auth.json")
		write(t, file, fmt.Sprintf(`{"auths":{%q:{"username":"user","password":%q}}}`, key, password))
		return file
	}

	for _, key := range []string{host, host + "/group", host + "/group/app", "https://" + host + "/v1/"} {
		base, err := take(t, impatient(auth(key, "s3cret")), ref)
		if err != nil || base != registrytest.Digest(t, img) {
			t.Errorf("%s: %v", key, err)
		}
	}
	wrong := auth(host, "wr0ng")
	for file, want := range map[string]string{
		wrong:                       "the credentials in " + wrong + " were rejected: `skopeo login " + host + "` again",
		auth(host+"/gro", "s3cret"): "there is no such repository, or it needs `skopeo login " + host + "`",
	} {
		_, err := resolve(t.Context(), impatient(file), ref)
		if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	missing := Ref{Name: host + "/group/app:2"}
	if _, err := resolve(t.Context(), impatient(auth(host, "s3cret")), missing); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}

	var times atomic.Int64
	times.Store(3)
	backend := httptest.NewServer(registrytest.CutAfter(60_000, true, &times)(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { registrytest.Forward(w, req, host) })))
	defer backend.Close()
	between := strings.TrimPrefix(backend.URL, "http://")
	base, err := take(t, impatient(auth(between, "s3cret")), Ref{Name: between + "/group/app:1"})
	if err != nil || base != registrytest.Digest(t, img) || times.Load() >= 0 {
		t.Errorf("%v; %d cuts were not made", err, times.Load())
	}
}

// A registry that sends its users to a token service, and to another host for blobs.
func TestTokensAndRedirects(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	ref := Ref{Name: server.Push("app", registrytest.Image(t, 1000))}
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("the storage was given the token")
		}
		registrytest.Forward(w, req, server.Host)
	}))
	defer storage.Close()
	server.Stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _, basic := req.BasicAuth()
			switch auth := req.Header.Get("Authorization"); {
			case req.URL.Path == "/token":
				if user, password, _ := req.BasicAuth(); user != "user" || password != "s3cret" || !strings.Contains(req.URL.RawQuery, "pull") {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				io.WriteString(w, `{"token":"t0ken"}`)
			case req.Header.Get("X-Storage") != "" || auth == "" && strings.HasPrefix(req.URL.RawQuery, "signature="):
				next.ServeHTTP(w, req)
			case auth != "Bearer t0ken" || basic:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, server.Host))
				w.WriteHeader(http.StatusUnauthorized)
			case strings.Contains(req.URL.Path, "/blobs/"):
				http.Redirect(w, req, storage.URL+req.URL.Path+"?signature=s1gned", http.StatusTemporaryRedirect)
			default:
				next.ServeHTTP(w, req)
			}
		})
	})
	file := filepath.Join(t.TempDir(), "auth.json")
	write(t, file, fmt.Sprintf(`{"auths":{%q:{"auth":"dXNlcjpzM2NyZXQ="}}}`, server.Host))
	_, err := take(t, impatient(file), ref)
	must(t, err)
	if _, err := resolve(t.Context(), impatient(), ref); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	storage.Close()
	if _, err := take(t, impatient(file), ref); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "s1gned") {
		t.Error(err)
	}
}
