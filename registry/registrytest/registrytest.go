// Package registrytest serves registries that tests can stand in front of.
package registrytest

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	fakeregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
)

// pushing is the user agent of Push, whose requests are not counted.
const pushing = "pushing"

// A Server is a registry in memory, between which and its users a test can stand.
type Server struct {
	Host string

	t        *testing.T
	mu       sync.Mutex
	requests []string // as "GET /v2/…", those of users only
	between  func(next http.Handler) http.Handler
}

// Serve starts a registry until the test ends. start is httptest.NewServer or
// httptest.NewTLSServer, say.
func Serve(t *testing.T, start func(http.Handler) *httptest.Server) *Server {
	t.Helper()
	s := &Server{t: t}
	registry := fakeregistry.New(fakeregistry.Logger(log.New(io.Discard, "", 0)))
	server := start(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.mu.Lock()
		next := registry
		if !strings.Contains(req.Header.Get("User-Agent"), pushing) {
			if s.between != nil {
				next = s.between(next)
			}
			s.requests = append(s.requests, req.Method+" "+req.URL.Path)
		}
		s.mu.Unlock()
		next.ServeHTTP(w, req)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	_, s.Host, _ = strings.Cut(server.URL, "://")
	return s
}

// Stand puts a handler before the registry and forgets the requests so far.
func (s *Server) Stand(between func(next http.Handler) http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.between, s.requests = between, nil
}

// Count returns how many requests, as "GET /v2/…", contain part.
func (s *Server) Count(part string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// Push puts something into a repository, past what stands before the registry, and
// returns its name.
func (s *Server) Push(repo string, what remote.Taggable, options ...remote.Option) string {
	s.t.Helper()
	return Push(s.t, s.Host+"/"+repo, what, options...)
}

// Push puts something into any registry, and returns its name as a stackerfile has it.
func Push(t *testing.T, text string, what remote.Taggable, options ...remote.Option) string {
	t.Helper()
	ref, err := name.ParseReference(text)
	must(t, err)
	must(t, remote.Push(ref, what, append(options, remote.WithUserAgent(pushing))...))
	return "docker://" + text
}

// Image returns an image of two layers.
func Image(t *testing.T, size int64) v1.Image {
	t.Helper()
	img, err := random.Image(size, 2)
	must(t, err)
	return img
}

// Digest returns the digest of an image, an index or a layer.
func Digest(t *testing.T, what interface{ Digest() (v1.Hash, error) }) digest.Digest {
	t.Helper()
	h, err := what.Digest()
	must(t, err)
	return digest.Digest(h.String())
}

// CutAfter returns what cuts the connection when n bytes of a blob are sent, so many
// times. Range requests go through the same, or are not understood.
func CutAfter(n int, ranges bool, times *atomic.Int64) func(http.Handler) http.Handler {
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
	_, _ = c.ResponseWriter.Write(p[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// Forward passes a request on to host.
func Forward(w http.ResponseWriter, req *http.Request, host string) {
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
	_, _ = io.Copy(w, resp.Body)
}

// Docker starts Debian's docker-registry, which wants the user "user" with the password
// "s3cret", and returns its host. It skips the test where that is not installed.
func Docker(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("apt-get install docker-registry")
	}
	dir := t.TempDir()
	write := func(name, text string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)) }
	write("htpasswd", "user:$2a$04$zyB99rfDP8gchL.aY37AGuFcMWBnpy6QkPk0qkcgZbDniYStro3Fe\n")
	write("config.yml", fmt.Sprintf(`version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: %[1]s/data}}
http: {addr: "127.0.0.1:0"}
auth: {htpasswd: {realm: test, path: %[1]s/htpasswd}}
`, dir))
	return start(t, program, filepath.Join(dir, "config.yml"))
}

// start starts docker-registry and returns where it listens.
func start(t *testing.T, program, config string) string {
	t.Helper()
	cmd := exec.Command(program, "serve", config)
	errs, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var seen bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := errs.Read(buf)
		seen.Write(buf[:n])
		if _, rest, ok := strings.Cut(seen.String(), "listening on "); ok {
			if host, _, ok := strings.Cut(rest, `"`); ok {
				go func() { _, _ = io.Copy(io.Discard, errs) }()
				return host
			}
		}
		if err != nil {
			t.Fatalf("docker-registry: %s", &seen)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
