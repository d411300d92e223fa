package imports

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
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
	"time"

	"github.com/layerbuild/layerbuild/registry"
)

// fetcher opens a store whose downloads ask for no one's credentials.
func fetcher(t *testing.T) *Store {
	t.Helper()
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("NETRC", filepath.Join(t.TempDir(), "none"))
	return open(t, Options{})
}

// asking adds a client that tries again at once.
func asking(o FetchOptions) FetchOptions {
	if o.Client == nil {
		o.Client = registry.New(registry.Options{Pause: time.Millisecond})
	}
	return o
}

// server serves what handle says. The tests' proxies are not asked.
func server(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(handle)
	t.Cleanup(srv.Close)
	return srv
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func fetched(t *testing.T, s *Store, url string, o FetchOptions) Download {
	t.Helper()
	d, err := s.Fetch(context.Background(), url, asking(o))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// refused fetches what must fail with an error of one line that has these words.
func refused(t *testing.T, s *Store, url string, o FetchOptions, words ...string) {
	t.Helper()
	_, err := s.Fetch(context.Background(), url, asking(o))
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
	if left := must(os.ReadDir(filepath.Join(s.state, "tmp")))(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func content(t *testing.T, d Download) string {
	t.Helper()
	b := must(os.ReadFile(d.Path))(t)
	if d.Digest.Encoded() != hashOf(string(b)) || d.Size != int64(len(b)) {
		t.Errorf("%+v is not of its content", d)
	}
	return string(b)
}

func TestFetchWithHashAsksOnce(t *testing.T) {
	var asked atomic.Int32
	srv := server(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1); fmt.Fprint(w, "pinned") })
	s := fetcher(t)
	for _, hash := range []string{hashOf("pinned"), strings.ToUpper(hashOf("pinned"))} {
		content(t, fetched(t, s, srv.URL+"/a", FetchOptions{Hash: hash}))
	}
	content(t, fetched(t, s, srv.URL+"/elsewhere", FetchOptions{Hash: hashOf("pinned")}))
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	refused(t, s, srv.URL+"/a", FetchOptions{Hash: hashOf("other")}, "has the sha256 "+hashOf("pinned"), hashOf("other"))
	refused(t, s, srv.URL+"/a", FetchOptions{Hash: "12ab"}, "64 hexadecimal")
}

func TestFetchOffline(t *testing.T) {
	srv := server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "here") })
	s := fetcher(t)
	refused(t, s, srv.URL+"/f", FetchOptions{Offline: true}, "--offline")
	fetched(t, s, srv.URL+"/f", FetchOptions{})
	srv.Close()
	if d := fetched(t, s, srv.URL+"/f", FetchOptions{Offline: true}); content(t, d) != "here" || d.Notice != "" {
		t.Errorf("%+v", d)
	}
	d := fetched(t, s, srv.URL+"/f", FetchOptions{})
	if content(t, d) != "here" || !strings.Contains(d.Notice, "using what was downloaded on") {
		t.Errorf("%+v", d)
	}
	refused(t, s, srv.URL+"/other", FetchOptions{}, "refused")
}

func TestFetchDamagedDownload(t *testing.T) {
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, "sound")
	})
	s := fetcher(t)
	d := fetched(t, s, srv.URL, FetchOptions{})
	ok(t, os.WriteFile(d.Path, []byte("rotten"), 0o644))
	if got := content(t, fetched(t, s, srv.URL, FetchOptions{})); got != "sound" {
		t.Error(got)
	}
	if b := must(os.ReadFile(filepath.Join(s.state, "corrupt", "download-"+d.Digest.Encoded())))(t); string(b) != "rotten" {
		t.Error("not put aside")
	}
	// What is known of a URL may be damaged as well.
	urls := must(filepath.Glob(filepath.Join(s.state, "downloads/urls/*.json")))(t)
	ok(t, os.WriteFile(urls[0], []byte("{"), 0o644))
	fetched(t, s, srv.URL, FetchOptions{})
}

// TestFetchResumes cuts the connection after every few bytes.
func TestFetchResumes(t *testing.T) {
	body := strings.Repeat("0123456789", 1000)
	var requests atomic.Int32
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"same"`)
		n := requests.Add(1)
		if n > 1 && (r.Header.Get("Range") == "" || r.Header.Get("If-Range") != `"same"`) {
			t.Errorf("request %d: %v", n, r.Header)
		}
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
			w.WriteHeader(http.StatusPartialContent)
		}
		if n < 4 {
			fmt.Fprint(w, body[from:from+3000])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, body[from:])
	})
	var done, total int64
	d := fetched(t, fetcher(t), srv.URL, FetchOptions{Progress: func(a, b int64) { done, total = a, b }})
	if content(t, d) != body || requests.Load() != 4 || done != 10000 || total != 10000 {
		t.Errorf("%d requests, progress %d of %d", requests.Load(), done, total)
	}
}

// TestFetchResumesOnlyTheSame: the file is another one after the cut.
func TestFetchResumesOnlyTheSame(t *testing.T) {
	old, now := strings.Repeat("a", 5000), strings.Repeat("b", 6000)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"whole": func(w http.ResponseWriter) { fmt.Fprint(w, now) },
		"other part": func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 100-5999/6000")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, now[100:])
		},
		"other etag": func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 1000-4999/5000")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, now[1000:5000])
		},
		"cannot": func(w http.ResponseWriter) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			srv := server(t, func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) == 1 {
					w.Header().Set("ETag", `"old"`)
					w.Header().Set("Content-Length", "5000")
					fmt.Fprint(w, old[:1000])
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("ETag", `"new"`)
				if r.Header.Get("Range") == "" {
					fmt.Fprint(w, now)
					return
				}
				answer(w)
			})
			if got := content(t, fetched(t, fetcher(t), srv.URL, FetchOptions{})); got != now {
				t.Errorf("%d bytes, %d of old", len(got), strings.Count(got, "a"))
			}
		})
	}
}

func TestFetchTriesAgain(t *testing.T) {
	for _, status := range []int{429, 500, 502, 503, 504} {
		var requests atomic.Int32
		srv := server(t, func(w http.ResponseWriter, r *http.Request) {
			if requests.Add(1) < 3 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(status)
				return
			}
			fmt.Fprint(w, "at last")
		})
		if got := content(t, fetched(t, fetcher(t), srv.URL, FetchOptions{})); got != "at last" {
			t.Errorf("%d: %q", status, got)
		}
	}
	srv := server(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
	refused(t, fetcher(t), srv.URL+"/f", FetchOptions{}, srv.URL+"/f", "503 Service Unavailable")
}

func TestFetchFailures(t *testing.T) {
	mux := http.NewServeMux()
	var requests atomic.Int32
	handle := func(path string, h http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { requests.Add(1); h(w, r) })
	}
	handle("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	handle("/denied", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) })
	handle("/short", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "too short")
	})
	handle("/large", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "1000") })
	handle("/endless", func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < 1000 && r.Context().Err() == nil; i++ {
			fmt.Fprint(w, strings.Repeat("x", 1000))
		}
	})
	handle("/says", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Checksum-Sha256", hashOf("something else"))
		fmt.Fprint(w, "body")
	})
	handle("/304", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) })
	handle("/ftp", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "ftp://example.org/x")
		w.WriteHeader(302)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	s := fetcher(t)
	for _, test := range []struct {
		path     string
		o        FetchOptions
		requests int32 // 0 for any
		words    []string
	}{
		{"/none", FetchOptions{}, 0, []string{"404 Not Found"}},
		{"/denied", FetchOptions{}, 1, []string{"401 Unauthorized", "netrc"}},
		{"/loop", FetchOptions{}, 11, []string{"more than 10 redirects"}},
		{"/short", FetchOptions{}, 4, []string{"cut after 9 bytes"}},
		{"/large", FetchOptions{MaxSize: 999}, 1, []string{"limit of 999B"}},
		{"/endless", FetchOptions{MaxSize: 999}, 1, []string{"limit of 999B"}},
		{"/says", FetchOptions{}, 1, []string{"the server says that its sha256 is"}},
		{"/says", FetchOptions{Hash: hashOf("body")}, 1, []string{"has the sha256 " + hashOf("something else")}},
		{"/304", FetchOptions{}, 1, []string{"without having been asked"}},
		{"/ftp", FetchOptions{}, 0, []string{"unsupported protocol"}},
	} {
		requests.Store(0)
		refused(t, s, srv.URL+test.path, test.o, append(test.words, srv.URL+test.path)...)
		if test.requests != 0 && requests.Load() != test.requests {
			t.Errorf("%s: %d requests", test.path, requests.Load())
		}
	}
	refused(t, s, "ftp://example.org/x", FetchOptions{}, "not an http or https URL")
	refused(t, s, "http://[::1", FetchOptions{}, "not a URL")
}

func TestFetchStalls(t *testing.T) {
	for _, bytes := range []string{"", "some"} {
		srv := server(t, func(w http.ResponseWriter, r *http.Request) {
			if bytes != "" {
				fmt.Fprint(w, bytes)
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
		})
		refused(t, fetcher(t), srv.URL, FetchOptions{Client: registry.New(registry.Options{FirstByte: 30 * time.Millisecond, Stall: 30 * time.Millisecond, Pause: time.Millisecond})}, "sent nothing for 30ms")
	}
}

func TestFetchIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	srv := server(t, func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	if _, err := fetcher(t).Fetch(ctx, srv.URL, asking(FetchOptions{})); err == nil || ctx.Err() == nil {
		t.Error(err)
	}
}

func TestFetchCertificate(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "secure") }))
	srv.Config.ErrorLog = quiet()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	s := fetcher(t)
	refused(t, s, srv.URL, FetchOptions{}, "certificate is not to be trusted")
}

// TestFetchCredentials shows who is told a password: the host that it is for,
// and nobody that it redirects to.
func TestFetchCredentials(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]string{}
	note := func(name string, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		user, password, _ := r.BasicAuth()
		seen[name] = user + ":" + password
		if r.Header.Get("Referer") != "" {
			t.Error("a referer is sent")
		}
	}
	other := server(t, func(w http.ResponseWriter, r *http.Request) { note("other", r); fmt.Fprint(w, "x") })
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		note(r.URL.Path, r)
		if r.URL.Path == "/away" {
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/", http.StatusFound)
			return
		}
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/here", http.StatusFound)
			return
		}
		fmt.Fprint(w, "x")
	})
	host := strings.TrimPrefix(srv.URL, "http://")
	dir := t.TempDir()
	auth := func(pair string) string { return base64.StdEncoding.EncodeToString([]byte(pair)) }
	write(t, dir, map[string]string{
		"auth.json": fmt.Sprintf(`{"auths": {%q: {"auth": %q}, %q: {"auth": %q}}}`, host, auth("all:pw1"), host+"/team/a", auth("team:pw2")),
		"netrc":     "# comment\nmachine 127.0.0.1\n\tlogin net password pw3\nmacdef init\nmachine evil\n\nmachine x login y password z",
	})
	s := fetcher(t)
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "auth.json"))
	t.Setenv("NETRC", filepath.Join(dir, "netrc"))
	for _, p := range []string{"/f", "/team/a/f", "/team/ab", "/away", "/moved"} {
		fetched(t, s, srv.URL+p, FetchOptions{})
	}
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "none"))
	fetched(t, s, srv.URL+"/netrc", FetchOptions{})
	withUser := strings.Replace(srv.URL, "://", "://me:p%40ss@", 1)
	fetched(t, s, withUser+"/url", FetchOptions{})
	for p, want := range map[string]string{"/f": "all:pw1", "/team/a/f": "team:pw2", "/team/ab": "all:pw1", "/away": "all:pw1", "other": ":",
		"/here": "all:pw1", "/netrc": "net:pw3", "/url": "me:p@ss"} {
		if seen[p] != want {
			t.Errorf("%s was told %q, want %q", p, seen[p], want)
		}
	}
}

// TestFetchTellsNoSecrets looks for a password everywhere it could come to.
func TestFetchTellsNoSecrets(t *testing.T) {
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "http://user:hunter2@127.0.0.1:1/x?token=hunter2", http.StatusFound)
		case "/none":
			w.WriteHeader(404)
		case "/cut":
			w.Header().Set("Content-Length", "10")
		default:
			fmt.Fprint(w, "x")
		}
	})
	secret := strings.Replace(srv.URL, "://", "://user:hunter2@", 1)
	s := fetcher(t)
	var words []string
	for _, p := range []string{"/away", "/none", "/cut"} {
		_, err := s.Fetch(context.Background(), secret+p+"?X-Amz-Signature=hunter2&v=1", asking(FetchOptions{}))
		words = append(words, fmt.Sprint(err))
	}
	fetched(t, s, secret+"/f?access_token=hunter2", FetchOptions{})
	srv.Close()
	words = append(words, fetched(t, s, secret+"/f?access_token=hunter2", FetchOptions{}).Notice)
	for _, f := range must(filepath.Glob(filepath.Join(s.state, "downloads/*/*")))(t) {
		words = append(words, f, string(must(os.ReadFile(f))(t)))
	}
	for _, w := range words {
		if strings.Contains(w, "hunter2") || strings.Contains(w, "user:") {
			t.Errorf("the secret is in %q", w)
		}
	}
}

func TestFetchAtOnce(t *testing.T) {
	var bodies atomic.Int32
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		bodies.Add(1)
		fmt.Fprint(w, strings.Repeat("x", 100000))
	})
	s := fetcher(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := s.Fetch(context.Background(), srv.URL, asking(FetchOptions{})); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if bodies.Load() != 1 {
		t.Errorf("downloaded %d times", bodies.Load())
	}
}

// TestFetchThroughProxy: proxies come from the environment, which Go reads once
// a process, so that another one asks.
func TestFetchThroughProxy(t *testing.T) {
	if os.Getenv("IMPORTS_TEST_PROXY") != "" {
		if got := content(t, fetched(t, fetcher(t), "http://far.invalid/f", FetchOptions{})); got != "by proxy of http://far.invalid/f" {
			t.Error(got)
		}
		return
	}
	proxy := server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "by proxy of %s", r.URL) })
	cmd := exec.Command(os.Args[0], "-test.run=^TestFetchThroughProxy$")
	cmd.Env = append(os.Environ(), "IMPORTS_TEST_PROXY=1", "http_proxy="+proxy.URL, "no_proxy=", "NO_PROXY=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// quiet is a log that nobody reads.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
