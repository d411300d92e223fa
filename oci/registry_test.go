package oci

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	fakeregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A served registry, between which and its users a test can stand.
type served struct {
	t    *testing.T
	host string

	mu       sync.Mutex
	requests []string // as "GET /v2/…", those of users only
	between  func(next http.Handler) http.Handler
}

func serve(t *testing.T, start func(http.Handler) *httptest.Server) *served {
	t.Helper()
	s := &served{t: t}
	registry := fakeregistry.New(fakeregistry.Logger(log.New(io.Discard, "", 0)))
	server := start(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.mu.Lock()
		next := registry
		if s.between != nil && req.Header.Get("User-Agent") != "pushing" {
			next = s.between(next)
		}
		s.requests = append(s.requests, req.Method+" "+req.URL.Path)
		s.mu.Unlock()
		next.ServeHTTP(w, req)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

// stand puts a handler before the registry and forgets the requests so far.
func (s *served) stand(between func(next http.Handler) http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.between, s.requests = between, nil
}

func (s *served) count(part string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

func (s *served) push(repo string, what remote.Taggable, options ...remote.Option) ImageRef {
	s.t.Helper()
	return push(s.t, s.host+"/"+repo, what, options...)
}

func push(t *testing.T, text string, what remote.Taggable, options ...remote.Option) ImageRef {
	t.Helper()
	ref, err := name.ParseReference(text)
	must(t, err)
	must(t, remote.Push(ref, what, append(options, remote.WithUserAgent("pushing"))...))
	return ImageRef{Name: "docker://" + text}
}

func image(t *testing.T, size int64) v1.Image {
	t.Helper()
	img, err := random.Image(size, 2)
	must(t, err)
	return img
}

func digestOf(t *testing.T, what interface{ Digest() (v1.Hash, error) }) digest.Digest {
	t.Helper()
	h, err := what.Digest()
	must(t, err)
	return digest.Digest(h.String())
}

// impatient returns a Registry that waits for no one, with logins of a test.
func impatient(files ...string) *Registry {
	r := NewRegistry()
	r.pause, r.credentials, r.certs = time.Microsecond, files, nil
	r.conf = func() (registriesConf, error) { return nil, nil }
	return r
}

// take resolves ref and takes it in.
func take(t *testing.T, s *Store, r *Registry, ref ImageRef) (*Base, error) {
	t.Helper()
	d, err := r.Resolve(t.Context(), ref, amd64)
	if err != nil {
		return nil, err
	}
	return s.BaseFromRegistry(t.Context(), r, ref, d.Digest, nil)
}

func TestBaseFromRegistry(t *testing.T) {
	server, s := serve(t, httptest.NewServer), newStore(t)
	img := image(t, 100_000) // with Docker's media types
	ref := server.push("group/app:1", img)
	r := impatient()
	var progress atomic.Int64
	d, err := r.Resolve(t.Context(), ref, amd64)
	must(t, err)
	base, err := s.BaseFromRegistry(t.Context(), r, ref, d.Digest, func(done, total int64) {
		if done == total {
			progress.Add(total)
		}
	})
	must(t, err)
	if base.Manifest != digestOf(t, img) || base.Ref != ref.Name {
		t.Errorf("got %s %s", base.Ref, base.Manifest)
	}
	layers, err := img.Layers()
	must(t, err)
	var size int64
	for i, l := range base.Layers {
		id, err := layers[i].DiffID()
		must(t, err)
		if l.Digest != digestOf(t, layers[i]) || l.DiffID.String() != id.String() || l.MediaType != ispec.MediaTypeImageLayerGzip {
			t.Errorf("layer %d: %+v", i, l)
		}
		f, err := s.OpenVerified(l.Descriptor)
		must(t, err)
		_, err = io.Copy(io.Discard, f)
		must(t, errors.Join(err, f.Close()))
		size += l.Size
	}
	if progress.Load() != size {
		t.Errorf("progress of %d bytes, want %d", progress.Load(), size)
	}
	again, err := s.Base(base.Manifest)
	must(t, err)
	if len(again.Layers) != 2 {
		t.Errorf("%+v", again)
	}

	server.stand(nil)
	_, err = take(t, s, r, ref)
	must(t, err)
	if n := server.count("/blobs/"); n > 0 {
		t.Errorf("%d blobs were fetched that are there", n)
	}
	if n := server.count("GET /v2/ "); n > 0 {
		t.Errorf("logged in again")
	}
	nothingInTmp(t, s)
}

func TestResolveOfPlatform(t *testing.T) {
	server := serve(t, httptest.NewServer)
	platforms := []v1.Platform{
		{OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "linux", Architecture: "amd64"}, {OS: "unknown", Architecture: "unknown"},
	}
	for _, kind := range []types.MediaType{types.OCIImageIndex, types.DockerManifestList} {
		index := mutate.IndexMediaType(empty.Index, kind)
		images := map[string]digest.Digest{}
		for _, p := range platforms {
			img := image(t, 100)
			images[p.String()] = digestOf(t, img)
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		}
		tagged := server.push("multi:1", index)
		pinned := ImageRef{Name: tagged.Name + "@" + digestOf(t, index).String()}
		for _, ref := range []ImageRef{tagged, pinned} {
			for want, p := range map[string]ispec.Platform{
				"linux/arm/v7":   {OS: "linux", Architecture: "arm"},
				"linux/arm/v6":   {OS: "linux", Architecture: "arm", Variant: "v6"},
				"linux/arm64/v8": {OS: "linux", Architecture: "arm64"},
				"linux/amd64":    {OS: "linux", Architecture: "amd64"},
			} {
				d, err := impatient().Resolve(t.Context(), ref, p)
				if err != nil || d.Digest != images[want] {
					t.Errorf("%s: %v, %v", want, d, err)
				}
			}
			_, err := impatient().Resolve(t.Context(), ref, ispec.Platform{OS: "linux", Architecture: "s390x"})
			if err == nil || !strings.Contains(err.Error(), "there is no image for linux/s390x; there are linux/arm/v6, linux/arm/v7") {
				t.Error(err)
			}
		}
	}
}

// A tag that moves does not change what was resolved.
func TestTagThatMoves(t *testing.T) {
	server, s, r := serve(t, httptest.NewServer), newStore(t), impatient()
	old := image(t, 100)
	ref := server.push("app", old)
	d, err := r.Resolve(t.Context(), ref, amd64)
	must(t, err)
	server.push("app", image(t, 100))
	base, err := s.BaseFromRegistry(t.Context(), r, ref, d.Digest, nil)
	if err != nil || base.Manifest != digestOf(t, old) {
		t.Errorf("%v, %v", base, err)
	}
	if now, err := r.Resolve(t.Context(), ref, amd64); err != nil || now.Digest == d.Digest {
		t.Errorf("%v, %v", now, err)
	}
}

// Registries that say less of a manifest than they should.
func TestHeadIsNotEnough(t *testing.T) {
	server := serve(t, httptest.NewServer)
	img := image(t, 100)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	for _, what := range []remote.Taggable{img, index} {
		ref := server.push("app", what)
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
			server.stand(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					changed := &changedHeader{ResponseWriter: w, change: func() bool { return change(w, req) }}
					next.ServeHTTP(changed, req)
				})
			})
			d, err := impatient().Resolve(t.Context(), ref, amd64)
			if err != nil || d.Digest != digestOf(t, img) {
				t.Errorf("%s: %v, %v", name, d, err)
			}
		}
		server.stand(nil)
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

// cutAfter ends the connection when so many bytes of a blob are sent; Range
// requests go through the same.
func cutAfter(n int, ranges bool, times *atomic.Int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !ranges {
				req.Header.Del("Range")
			}
			if strings.Contains(req.URL.Path, "/blobs/") && times.Add(-1) >= 0 {
				w = &cutWriter{w, n}
			}
			next.ServeHTTP(w, req)
		})
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	c.ResponseWriter.Write(p[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func TestBlobThatIsCut(t *testing.T) {
	server := serve(t, httptest.NewServer)
	ref := server.push("app", image(t, 300_000))
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
			s := newStore(t)
			var times atomic.Int64
			times.Store(c.times)
			server.stand(cutAfter(100_000, c.ranges, &times))
			base, err := take(t, s, impatient(), ref)
			if c.fails {
				if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "the connection was cut") {
					t.Error(err)
				}
				nothingInTmp(t, s)
				return
			}
			must(t, err)
			for _, l := range base.Layers {
				f, err := s.OpenVerified(l.Descriptor)
				must(t, err)
				_, err = io.Copy(io.Discard, f)
				must(t, errors.Join(err, f.Close()))
			}
		})
	}
}

// A body that stops coming is given up and continued.
func TestBlobThatStalls(t *testing.T) {
	server, s := serve(t, httptest.NewServer), newStore(t)
	ref := server.push("app", image(t, 300_000))
	var once sync.Once
	server.stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				once.Do(func() { w = stalledWriter{w, req.Context()} })
			}
			next.ServeHTTP(w, req)
		})
	})
	r := impatient()
	r.stall = 50 * time.Millisecond
	_, err := take(t, s, r, ref)
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
	server, s := serve(t, httptest.NewServer), newStore(t)
	ref := server.push("app", image(t, 300_000))
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	server.stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				cancel(why)
				w = stalledWriter{w, req.Context()}
			}
			next.ServeHTTP(w, req)
		})
	})
	r := impatient()
	d, err := r.Resolve(ctx, ref, amd64)
	must(t, err)
	if _, err := s.BaseFromRegistry(ctx, r, ref, d.Digest, nil); !errors.Is(err, why) {
		t.Error(err)
	}
	nothingInTmp(t, s)
}

// What a registry gives is what its digest and size say, or it is refused.
func TestRegistryThatLies(t *testing.T) {
	server := serve(t, httptest.NewServer)
	ref := server.push("app", image(t, 1000))
	for _, path := range []string{"/blobs/", "/manifests/sha256:"} {
		for name, lie := range map[string]func([]byte) []byte{
			"another byte": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"too short":    func(b []byte) []byte { return b[:len(b)-1] },
			"too long":     func(b []byte) []byte { return append(b, 0) },
			"nothing":      func(b []byte) []byte { return nil },
		} {
			s := newStore(t)
			server.stand(func(next http.Handler) http.Handler {
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
			if _, err := take(t, s, impatient(), ref); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s of %s: %v", name, path, err)
			}
			nothingInTmp(t, s)
		}
	}
}

func TestPinnedManifestIsAnother(t *testing.T) {
	server := serve(t, httptest.NewServer)
	ref := server.push("app", image(t, 100))
	other := digestOf(t, image(t, 100))
	server.stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			req.URL.Path = strings.Replace(req.URL.Path, other.String(), "latest", 1)
			next.ServeHTTP(w, req)
		})
	})
	if d, err := impatient().Resolve(t.Context(), ImageRef{Name: ref.Name + "@" + other.String()}, amd64); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestRegistryThatIsBusy(t *testing.T) {
	server := serve(t, httptest.NewServer)
	ref := server.push("app", image(t, 100))
	for status, want := range map[int]string{
		http.StatusServiceUnavailable: "the registry answers 503 Service Unavailable",
		http.StatusTooManyRequests:    "the registry allows no more requests for now (TOOMANYREQUESTS: slow[31m down): log in, or try later",
	} {
		for _, failures := range []int64{2, 1000} {
			var left atomic.Int64
			left.Store(failures)
			server.stand(func(next http.Handler) http.Handler {
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
			_, err := take(t, newStore(t), impatient(), ref)
			if (err != nil) != (failures > maxAttempts) {
				t.Errorf("%d: %v", status, err)
			}
			if failures < maxAttempts {
				continue
			}
			r := impatient()
			src, err := r.session(t.Context(), mustName(t, ref).Context(), false)
			must(t, err)
			_, _, err = src.manifest(t.Context(), "latest") // an answer to HEAD has no text
			if err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
}

func mustName(t *testing.T, ref ImageRef) name.Reference {
	t.Helper()
	n, err := ref.parse()
	must(t, err)
	return n
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "7": 7 * time.Second, "x": 0, "Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"99999999999": 1e6 * time.Second,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	for seconds, again := range map[string]bool{"60": true, "61": false} {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {seconds}}}
		if wait, got := retry(resp, nil, time.Second, 1); got != again || got && wait != time.Minute {
			t.Errorf("%s: %v, %v", seconds, wait, got)
		}
	}
}

func TestErrorsOfRegistries(t *testing.T) {
	plain, secure := serve(t, httptest.NewServer), serve(t, httptest.NewTLSServer)
	secure.host = strings.TrimPrefix(secure.host, "https://")
	_, port, _ := strings.Cut(plain.host, ":")
	gone := httptest.NewServer(nil)
	gone.Close()
	plain.push("app:1", image(t, 100))
	for _, c := range []struct {
		ref  string
		is   error
		want string
	}{
		{plain.host + "/app:2", ErrNotFound, "check the repository and the tag"},
		{plain.host + "/other:1", ErrNotFound, "check the repository and the tag"},
		{strings.TrimPrefix(gone.URL, "http://") + "/app", ErrUnreachable, "connection refused: check the name, the network, and HTTPS_PROXY"},
		{"0.0.0.0:" + port + "/app:1", ErrUnreachable, "speaks plain http: set `insecure: true` if that is meant"},
		{secure.host + "/app", ErrUnreachable, "put the certificate of its authority into /etc/containers/certs.d/" + secure.host + "/ca.crt, or set `insecure: true`"},
	} {
		_, err := impatient().Resolve(t.Context(), ImageRef{Name: c.ref}, amd64)
		if !errors.Is(err, c.is) || !strings.HasPrefix(err.Error(), c.ref+": ") || !strings.Contains(err.Error(), c.want) ||
			strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "/v2/") {
			t.Errorf("%s: %v", c.ref, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := impatient().Resolve(ctx, ImageRef{Name: plain.host + "/app:1"}, amd64); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestInsecure(t *testing.T) {
	for _, start := range []func(http.Handler) *httptest.Server{httptest.NewServer, httptest.NewTLSServer} {
		server, s := serve(t, start), newStore(t)
		server.host = strings.TrimPrefix(server.host, "https://")
		img := image(t, 100)
		ref := server.push("app", img, remote.WithTransport(newTransport(&tls.Config{}, true, time.Microsecond)))
		ref.Insecure = true
		base, err := take(t, s, impatient(), ref)
		if err != nil || base.Manifest != digestOf(t, img) {
			t.Error(err)
		}
	}
}

// Credentials and images do not go over plain http unless they may, wherever a
// registry sends us.
func TestPlainHTTPIsRefused(t *testing.T) {
	next := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})
	for target, allowed := range map[string]bool{
		"http://10.1.2.3/v2/": false, "http://registry.example/x": false, "http://127.0.0.1:5000/": true, "http://localhost/": true,
		"http://[::1]:5000/": true, "https://registry.example/": true, "http://localhost.example/": false,
	} {
		u, err := url.Parse(target)
		must(t, err)
		for _, insecure := range []bool{false, true} {
			resp, err := (&patient{next: next, insecure: insecure}).RoundTrip(&http.Request{URL: u})
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != (allowed || insecure) || err != nil && !errors.Is(err, errPlain) {
				t.Errorf("%s, insecure %v: %v", target, insecure, err)
			}
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestNamesOfImages(t *testing.T) {
	sum := digest.FromString("x").String()
	for text, want := range map[string]string{
		"docker://debian":                                      "index.docker.io/library/debian:latest",
		"debian:12":                                            "index.docker.io/library/debian:12",
		"docker://docker.io/group/app":                         "index.docker.io/group/app:latest",
		"docker://host:5000/a/b/c:t":                           "host:5000/a/b/c:t",
		"docker://reg.example/app:t@" + sum:                    "reg.example/app@" + sum,
		"docker://localhost/app":                               "localhost/app:latest",
		"docker://host/app@sha512:" + strings.Repeat("0", 128): "",
		"docker://host/app@sha256:1":                           "",
		"docker://":                                            "",
		"docker://Host/UPPER":                                  "",
		"docker://user:secret@host/app":                        "",
		"docker://user:secret@host/app:12":                     "",
	} {
		ref, err := ImageRef{Name: text}.parse()
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, %v", text, ref, err)
			}
			continue
		}
		if err != nil || ref.Name() != want {
			t.Errorf("%s: %v, %v", text, ref, err)
		}
	}
}

// A registry that wants a login: Debian's docker-registry with a password file.
func TestDockerRegistry(t *testing.T) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("apt-get install docker-registry")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "htpasswd"), "user:$2a$04$zyB99rfDP8gchL.aY37AGuFcMWBnpy6QkPk0qkcgZbDniYStro3Fe\n")
	write(t, filepath.Join(dir, "config.yml"), fmt.Sprintf(`version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: %[1]s/data}}
http: {addr: "127.0.0.1:0"}
auth: {htpasswd: {realm: test, path: %[1]s/htpasswd}}
`, dir))
	host := startRegistry(t, program, filepath.Join(dir, "config.yml"))
	img := image(t, 100_000)
	ref := push(t, host+"/group/app:1", img, remote.WithAuth(&authn.Basic{Username: "user", Password: "s3cret"}))
	auth := func(key, password string) string {
		file := filepath.Join(t.TempDir(), "auth.json")
		write(t, file, fmt.Sprintf(`{"auths":{%q:{"username":"user","password":%q}}}`, key, password))
		return file
	}

	for _, key := range []string{host, host + "/group", host + "/group/app", "https://" + host + "/v1/"} {
		base, err := take(t, newStore(t), impatient(auth(key, "s3cret")), ref)
		if err != nil || base.Manifest != digestOf(t, img) {
			t.Errorf("%s: %v", key, err)
		}
	}
	wrong := auth(host, "wr0ng")
	for file, want := range map[string]string{
		wrong:                       "the credentials of " + wrong + " do not do: `skopeo login " + host + "` again",
		auth(host+"/gro", "s3cret"): "there is no such repository, or it needs `skopeo login " + host + "`",
	} {
		_, err := impatient(file).Resolve(t.Context(), ref, amd64)
		if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	missing := ImageRef{Name: host + "/group/app:2"}
	if _, err := impatient(auth(host, "s3cret")).Resolve(t.Context(), missing, amd64); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}

	var times atomic.Int64
	times.Store(3)
	backend := httptest.NewServer(cutAfter(60_000, true, &times)(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { forward(w, req, host) })))
	defer backend.Close()
	between := strings.TrimPrefix(backend.URL, "http://")
	base, err := take(t, newStore(t), impatient(auth(between, "s3cret")), ImageRef{Name: between + "/group/app:1"})
	if err != nil || base.Manifest != digestOf(t, img) || times.Load() >= 0 {
		t.Errorf("%v; %d cuts were not made", err, times.Load())
	}
}

// forward passes a request on to host.
func forward(w http.ResponseWriter, req *http.Request, host string) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", host, ""
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}

// startRegistry starts docker-registry and returns where it listens.
func startRegistry(t *testing.T, program, config string) string {
	t.Helper()
	cmd := exec.Command(program, "serve", config)
	errs, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := errs.Read(buf)
		seen.Write(buf[:n])
		if _, rest, ok := strings.Cut(seen.String(), "listening on "); ok {
			if host, _, ok := strings.Cut(rest, `"`); ok {
				go io.Copy(io.Discard, errs)
				return host
			}
		}
		if err != nil {
			t.Fatalf("docker-registry: %s", &seen)
		}
	}
}

// A registry that sends its users to a token service, and to another host for blobs.
func TestTokensAndRedirects(t *testing.T) {
	server, s := serve(t, httptest.NewServer), newStore(t)
	ref := server.push("app", image(t, 1000))
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("the storage was given the token")
		}
		forward(w, req, server.host)
	}))
	defer storage.Close()
	server.stand(func(next http.Handler) http.Handler {
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
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, server.host))
				w.WriteHeader(http.StatusUnauthorized)
			case strings.Contains(req.URL.Path, "/blobs/"):
				http.Redirect(w, req, storage.URL+req.URL.Path+"?signature=s1gned", http.StatusTemporaryRedirect)
			default:
				next.ServeHTTP(w, req)
			}
		})
	})
	file := filepath.Join(t.TempDir(), "auth.json")
	write(t, file, fmt.Sprintf(`{"auths":{%q:{"auth":"dXNlcjpzM2NyZXQ="}}}`, server.host))
	_, err := take(t, s, impatient(file), ref)
	must(t, err)
	if _, err := impatient().Resolve(t.Context(), ref, amd64); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	storage.Close()
	if _, err := take(t, newStore(t), impatient(file), ref); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "s1gned") {
		t.Error(err)
	}
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	write(t, filepath.Join(bin, "docker-credential-test"), `#!/bin/sh
read server
case $1-$server in
get-helped.example) echo '{"Username":"helped","Secret":"h"}' ;;
get-token.example) echo '{"Username":"<token>","Secret":"t"}' ;;
get-broken.example) echo the keychain is locked; echo secret output >&2; exit 1 ;;
get-slow.example) sleep 5 ;;
get-https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"h"}' ;;
*) echo credentials not found in native keychain; exit 1 ;;
esac
`)
	must(t, os.Chmod(filepath.Join(bin, "docker-credential-test"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	first, second := filepath.Join(dir, "first.json"), filepath.Join(dir, "second.json")
	write(t, first, `{"auths":{
		"reg.example":{"auth":"`+"cmVnOng="+`"},
		"reg.example/a":{"auth":"`+"YTp4"+`"},
		"reg.example/a/b":{"auth":"`+"YWI6eA"+`"},
		"empty.example":{},
		"bad.example":{"auth":"!"}},
		"credHelpers":{"helped.example":"test","token.example":"test","broken.example":"test","slow.example":"test","gone.example":"gone","unknown.example":"test"}}`)
	write(t, second, `{"auths":{"https://old.example/v1/":{"auth":"b2xkOng="}, "empty.example":{"auth":"ZW1wdHk6eA=="}},"credsStore":"test"}`)
	files := credentials{filepath.Join(dir, "missing.json"), first, second}
	for repo, want := range map[string]string{
		"reg.example/x":      "reg",
		"reg.example/ab":     "reg",
		"reg.example/a":      "a",
		"reg.example/a/c":    "a",
		"reg.example/a/b":    "ab",
		"reg.example/a/b/c":  "ab",
		"old.example/x":      "old",
		"empty.example/x":    "empty",
		"helped.example/x":   "helped",
		"token.example/x":    "<token> t",
		"debian":             "hub",
		"nothing.example/x":  "",
		"unknown.example/x":  "",
		"reg.example:5000/x": "",
		"bad.example/x":      "error: credentials: " + first + ": the entry of bad.example has no login that can be read",
		"broken.example/x":   "error: credentials: " + first + ": credential helper docker-credential-test: exit status 1 (the keychain is locked)",
		"gone.example/x":     "error: credentials: " + first + `: credential helper docker-credential-gone: exec: "docker-credential-gone": executable file not found in $PATH`,
	} {
		r, err := name.NewRepository(repo)
		must(t, err)
		auth, from, err := files.lookup(t.Context(), r)
		var got string
		if err != nil {
			got = "error: " + err.Error()
		} else {
			config, err := auth.Authorization()
			must(t, err)
			got = config.Username
			if config.IdentityToken != "" {
				got = "<token> " + config.IdentityToken
			}
			if (from == "") != (got == "") {
				t.Errorf("%s: is from %q", repo, from)
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", repo, got, want)
		}
	}
	slow, err := name.NewRepository("slow.example/x")
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, _, err := files.lookup(ctx, slow); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 2*time.Second {
		t.Errorf("given up after %s: %v", time.Since(begun), err)
	}
	write(t, first, `{"auths":{"x":"s3cret`)
	r, err := name.NewRepository("x.example/x")
	must(t, err)
	if _, _, err := files.lookup(t.Context(), r); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
}

func TestDefaultCredentials(t *testing.T) {
	for name, value := range map[string]string{
		"REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_CONFIG_HOME": "", "DOCKER_CONFIG": "", "HOME": "/home/u",
	} {
		t.Setenv(name, value)
	}
	want := "/run/user/7/containers/auth.json /home/u/.config/containers/auth.json /home/u/.docker/config.json"
	if got := strings.Join(defaultCredentials(), " "); got != want {
		t.Errorf("got %s", got)
	}
	t.Setenv("DOCKER_CONFIG", "/d")
	t.Setenv("XDG_CONFIG_HOME", "/c")
	want = "/run/user/7/containers/auth.json /c/containers/auth.json /d/config.json"
	if got := strings.Join(defaultCredentials(), " "); got != want {
		t.Errorf("got %s", got)
	}
	t.Setenv("REGISTRY_AUTH_FILE", "/a")
	if got := strings.Join(defaultCredentials(), " "); got != "/a" {
		t.Errorf("got %s", got)
	}
}

// The environment's proxy is used. net/http reads it once a process, so this needs
// one of its own.
func TestProxy(t *testing.T) {
	if os.Getenv("REGISTRY_TEST_PROXY") != "" {
		_, err := take(t, newStore(t), impatient(), ImageRef{Name: "registry.invalid/app", Insecure: true})
		must(t, err)
		return
	}
	server := serve(t, httptest.NewServer)
	server.push("app", image(t, 100))
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if req.URL.Host != "registry.invalid" {
			t.Errorf("the proxy is asked for %s", req.URL)
		}
		forward(w, req, server.host)
	}))
	defer proxy.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestProxy$")
	child.Env = append(os.Environ(), "REGISTRY_TEST_PROXY=1", "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func FuzzImageName(f *testing.F) {
	for _, seed := range []string{"debian:12", "docker://host:5000/a/b:t@sha256:" + strings.Repeat("0", 64), "docker://u:p@h/x", "[::1]:5000/x", "a@b@c", "//", "host/\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := ImageRef{Name: text}.parse()
		if err == nil && (ref.Context().RegistryStr() == "" || strings.ContainsAny(ref.Name(), " \n\x1b?#")) {
			t.Errorf("%q is taken for %q", text, ref.Name())
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: %q", text, err)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	for _, seed := range []string{`{}`, `{"auths":{"reg.example":{"auth":"YTpi"}}}`, `{"auths":{"reg.example/a":{"identitytoken":"x"}}}`, `{"auths":[]}`, `{"credsStore":1}`} {
		f.Add(seed)
	}
	repo, err := name.NewRepository("reg.example/a/b")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var auth authFile
		if json.Unmarshal([]byte(text), &auth) != nil || len(auth.CredHelpers) > 0 || auth.CredsStore != "" {
			return // a helper is a program
		}
		if found, err := auth.lookup(t.Context(), repo); err == nil && found != nil && *found == (authn.AuthConfig{}) {
			t.Error("an empty login")
		}
	})
}
