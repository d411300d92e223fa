package oci

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/registry/registrytest"
)

// parts are what is in a store's folder of blobs of which a part has come.
func parts(t *testing.T, s *Store) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.partial, "*"))
	must(t, err)
	return found
}

// cutImage is an image of which a build has got a part of one layer or two, and the
// state folder of that build.
func cutImage(t *testing.T) (*registrytest.Server, registry.Ref, string) {
	t.Helper()
	server, s := registrytest.Serve(t, httptest.NewServer), newStore(t)
	ref := registry.Ref{Name: server.Push("app", registrytest.Image(t, 300_000))}
	var times atomic.Int64
	times.Store(1000)
	server.Stand(registrytest.CutAfter(100_000, false, &times))
	if _, err := take(t, s, impatient(t), ref); !errors.Is(err, registry.ErrUnreachable) {
		t.Fatal(err)
	}
	must(t, s.Close())
	left := parts(t, s)
	if len(left) == 0 {
		t.Fatal("nothing is left to go on with")
	}
	for _, path := range left {
		if strings.HasSuffix(path, ".lock") {
			t.Errorf("left locked: %s", path)
		}
	}
	return server, ref, string(s.state)
}

// A build goes on where one before it was cut, whatever became of the part since then.
func TestBlobIsResumedByTheNextBuild(t *testing.T) {
	for name, change := range map[string]struct {
		do     func(path string) error
		ranges bool
	}{
		"as it was": {func(string) error { return nil }, true},
		"damaged": {func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("damaged"), 5000)
			return errors.Join(err, f.Close())
		}, true},
		"too long":     {func(path string) error { return os.Truncate(path, 400_000) }, false},
		"nothing":      {func(path string) error { return os.Truncate(path, 0) }, false},
		"other's lock": {func(path string) error { return os.WriteFile(path+".lock", []byte("killed"), 0o600) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			server, ref, state := cutImage(t)
			s, err := OpenStore(state)
			must(t, err)
			left := parts(t, s)
			for _, path := range left {
				must(t, change.do(path))
			}
			var mu sync.Mutex
			ranges := map[string]string{} // by path: a request of the first build may come late
			server.Stand(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if asked := req.Header.Get("Range"); asked != "" {
						mu.Lock()
						ranges[req.URL.Path] = asked
						mu.Unlock()
					}
					next.ServeHTTP(w, req)
				})
			})
			base, err := take(t, s, impatient(t), ref)
			must(t, err)
			for _, l := range base.Layers {
				must(t, s.inspect(l.Descriptor))
			}
			if want := len(left); change.ranges != (len(ranges) == want) {
				t.Errorf("%d parts, asked for %q", want, ranges)
			}
			if left := parts(t, s); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A blob that a build had as a whole, but for its name, is not asked for again.
func TestWholePart(t *testing.T) {
	server, s := registrytest.Serve(t, httptest.NewServer), newStore(t)
	ref := registry.Ref{Name: server.Push("app", registrytest.Image(t, 300_000))}
	base, err := take(t, s, impatient(t), ref)
	must(t, err)
	must(t, s.Close())
	for _, l := range base.Layers {
		must(t, os.Rename(s.Path(l.Digest), s.partPath(l.Digest)))
	}
	server.Stand(nil)
	_, err = take(t, s, impatient(t), ref)
	must(t, err)
	if n := server.Count("GET /v2/app/"); n != 0 {
		t.Errorf("%d blobs and manifests were asked for", n)
	}
}

// Builds that need one blob fetch it once, and the others wait.
func TestBlobIsFetchedOnce(t *testing.T) {
	server, state := registrytest.Serve(t, httptest.NewServer), t.TempDir()
	img := registrytest.Image(t, 300_000)
	server.Stand(nil)
	client := impatient(t)
	var group sync.WaitGroup
	for i := range 4 {
		ref := registry.Ref{Name: server.Push(fmt.Sprint("app", i), img)}
		s, err := OpenStore(state) // its locks are of another open file, as another process's
		must(t, err)
		group.Go(func() {
			if _, err := take(t, s, client, ref); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	layers, err := img.Layers()
	must(t, err)
	for _, l := range layers {
		n := 0
		for i := range 4 {
			n += server.Count(fmt.Sprintf("GET /v2/app%d/blobs/%s", i, registrytest.Digest(t, l)))
		}
		if n != 1 {
			t.Errorf("a layer was fetched %d times", n)
		}
	}
}

// A registry that is restarted in the middle of a blob is waited for.
func TestRegistryIsRestarted(t *testing.T) {
	var web *httptest.Server
	server := registrytest.Serve(t, func(h http.Handler) *httptest.Server {
		web = httptest.NewServer(h)
		return web
	})
	img, err := random.Image(300_000, 1)
	must(t, err)
	ref := registry.Ref{Name: server.Push("app", img)}
	restart := sync.OnceFunc(func() {
		web.Listener.Close()
		time.AfterFunc(50*time.Millisecond, func() {
			again, err := net.Listen("tcp", server.Host)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { again.Close() })
			_ = http.Serve(again, web.Config.Handler)
		})
	})
	var times atomic.Int64
	times.Store(1)
	cut := registrytest.CutAfter(100_000, true, &times)
	server.Stand(func(next http.Handler) http.Handler {
		next = cut(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer func() {
				if cut := recover(); cut != nil {
					restart()
					panic(cut)
				}
			}()
			next.ServeHTTP(w, req)
		})
	})
	_, err = take(t, newStore(t), registry.New(registry.Options{Pause: 40 * time.Millisecond}), ref)
	must(t, err)
}

// What could not be written is not kept.
func TestPartThatCannotBeWritten(t *testing.T) {
	s := newStore(t)
	content := []byte("content")
	w, err := s.resume(t.Context(), descriptorOf("", content))
	must(t, err)
	_, err = w.Write(content[:3])
	must(t, err)
	must(t, w.f.Close())
	if _, err := w.Write(content[3:]); err == nil {
		t.Error("written to a closed file")
	}
	w.Close()
	if left := parts(t, s); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
