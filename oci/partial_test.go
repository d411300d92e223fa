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
func cutImage(t *testing.T) (*served, ImageRef, string) {
	t.Helper()
	server, s := serve(t, httptest.NewServer), newStore(t)
	ref := server.push("app", image(t, 300_000))
	var times atomic.Int64
	times.Store(1000)
	server.stand(cutAfter(100_000, false, &times))
	if _, err := take(t, s, impatient(), ref); !errors.Is(err, ErrUnreachable) {
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
			server.stand(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if asked := req.Header.Get("Range"); asked != "" {
						mu.Lock()
						ranges[req.URL.Path] = asked
						mu.Unlock()
					}
					next.ServeHTTP(w, req)
				})
			})
			base, err := take(t, s, impatient(), ref)
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
	server, s := serve(t, httptest.NewServer), newStore(t)
	ref := server.push("app", image(t, 300_000))
	base, err := take(t, s, impatient(), ref)
	must(t, err)
	must(t, s.Close())
	for _, l := range base.Layers {
		must(t, os.Rename(s.Path(l.Digest), s.partPath(l.Digest)))
	}
	server.stand(nil)
	_, err = take(t, s, impatient(), ref)
	must(t, err)
	if n := server.count("GET /v2/app/"); n != 0 {
		t.Errorf("%d blobs and manifests were asked for", n)
	}
}

// Builds that need one blob fetch it once, and the others wait.
func TestBlobIsFetchedOnce(t *testing.T) {
	server, state := serve(t, httptest.NewServer), t.TempDir()
	img := image(t, 300_000)
	server.stand(nil)
	var group sync.WaitGroup
	for i := range 4 {
		ref := server.push(fmt.Sprint("app", i), img)
		s, err := OpenStore(state) // its locks are of another open file, as another process's
		must(t, err)
		group.Go(func() {
			if _, err := take(t, s, impatient(), ref); err != nil {
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
			n += server.count(fmt.Sprintf("GET /v2/app%d/blobs/%s", i, digestOf(t, l)))
		}
		if n != 1 {
			t.Errorf("a layer was fetched %d times", n)
		}
	}
}

// A registry that is restarted in the middle of a blob is waited for.
func TestRegistryIsRestarted(t *testing.T) {
	var web *httptest.Server
	server := serve(t, func(h http.Handler) *httptest.Server {
		web = httptest.NewServer(h)
		return web
	})
	img, err := random.Image(300_000, 1)
	must(t, err)
	ref := server.push("app", img)
	restart := sync.OnceFunc(func() {
		web.Listener.Close()
		time.AfterFunc(50*time.Millisecond, func() {
			again, err := net.Listen("tcp", server.host)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { again.Close() })
			_ = http.Serve(again, web.Config.Handler)
		})
	})
	server.stand(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") && req.Header.Get("Range") == "" {
				w = &cutWriter{w, 100_000}
				defer func() {
					if cut := recover(); cut != nil {
						restart()
						panic(cut)
					}
				}()
			}
			next.ServeHTTP(w, req)
		})
	})
	r := impatient()
	r.pause = 40 * time.Millisecond
	_, err = take(t, newStore(t), r, ref)
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
