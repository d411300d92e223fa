package imports

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A fickle server gives a file, but the first time only its beginning.
type fickle struct {
	*testing.T
	mu     sync.Mutex
	body   string
	header http.Header // of each response
	cut    func()      // when the beginning was sent; nil later
	ranges []string    // that were asked for since
}

func (f *fickle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, values := range f.header {
		w.Header()[name] = values
	}
	if f.cut != nil {
		w.Header().Set("Content-Length", fmt.Sprint(len(f.body)))
		fmt.Fprint(w, f.body[:len(f.body)/2])
		w.(http.Flusher).Flush()
		f.cut()
		<-r.Context().Done()
		return
	}
	f.ranges = append(f.ranges, r.Header.Get("Range"))
	http.ServeContent(w, r, "", must(http.ParseTime("Mon, 01 Jan 2024 00:00:00 GMT"))(f.T), strings.NewReader(f.body))
}

// cutFetch fetches the beginning of a file, and returns the store and what it left.
func cutFetch(f *fickle, o FetchOptions) (s *Store, url, part string) {
	f.Helper()
	s = fetcher(f.T)
	url = server(f.T, f.ServeHTTP).URL
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o.Progress = func(done, _ int64) {
		if done == int64(len(f.body)/2) {
			cancel()
		}
	}
	f.cut = func() {}
	if _, err := s.Fetch(ctx, url, asking(o)); !errors.Is(err, context.Canceled) {
		f.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = nil
	return s, url, must(filepath.Glob(filepath.Join(s.state, "partial/url-*")))(f.T)[0]
}

// A file is gone on with where an earlier Fetch was cut, if it is sure to be the same,
// and what is there of it is what came.
func TestFetchResumesLater(t *testing.T) {
	body := strings.Repeat("0123456789", 1000)
	etag, modified, none := http.Header{"Etag": {`"one"`}}, http.Header{"Last-Modified": {"Mon, 01 Jan 2024 00:00:00 GMT"}}, http.Header{"Last-Modified": nil}
	hash := FetchOptions{Hash: hashOf(body)}
	const again, anew = "bytes=5000-", ""
	for name, test := range map[string]struct {
		header http.Header
		o      FetchOptions
		change func(f *fickle, part string) error
		want   string // ranges that are asked for
	}{
		"etag":     {etag, FetchOptions{}, nil, again},
		"modified": {modified, FetchOptions{}, nil, again},
		"hash":     {none, hash, nil, again},
		"more than is noted": {etag, FetchOptions{}, func(_ *fickle, part string) error {
			return os.WriteFile(part, append(must(os.ReadFile(part))(t), "torn"...), 0o600)
		}, again},
		"damaged": {etag, FetchOptions{}, func(_ *fickle, part string) error {
			return os.WriteFile(part, []byte(strings.Repeat("x", 5000)), 0o600)
		}, anew},
		"shorter":      {etag, FetchOptions{}, func(_ *fickle, part string) error { return os.Truncate(part, 4999) }, anew},
		"without note": {etag, FetchOptions{}, func(_ *fickle, part string) error { return os.Remove(part + ".json") }, anew},
		"broken note":  {etag, FetchOptions{}, func(_ *fickle, part string) error { return os.WriteFile(part+".json", []byte("{"), 0o600) }, anew},
		"killed":       {etag, FetchOptions{}, func(_ *fickle, part string) error { return os.WriteFile(part+".lock", []byte("killed"), 0o600) }, again},
		"another file": {etag, FetchOptions{}, func(f *fickle, _ string) error {
			f.body, f.header = strings.Repeat("9876543210", 1000), http.Header{"Etag": {`"two"`}}
			return nil
		}, again},
		"another file of that hash": {none, hash, func(f *fickle, part string) error {
			n := strings.Replace(string(must(os.ReadFile(part+".json"))(t)), hashOf(body[:5000]), hashOf(strings.Repeat("x", 5000)), 1)
			return errors.Join(os.WriteFile(part, []byte(strings.Repeat("x", 5000)), 0o600), os.WriteFile(part+".json", []byte(n), 0o600))
		}, again + " " + anew},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fickle{T: t, body: body, header: test.header}
			s, url, part := cutFetch(f, test.o)
			if test.change != nil {
				ok(t, test.change(f, part))
			}
			later := must(Open(s.state, Options{}))(t)
			if got := content(t, fetched(t, later, url, test.o)); got != f.body {
				t.Errorf("%d bytes, %.20s…", len(got), got)
			}
			if got := strings.Join(f.ranges, " "); got != test.want {
				t.Errorf("asked for %q, not %q", got, test.want)
			}
			if left := must(filepath.Glob(filepath.Join(s.state, "partial/*")))(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// What the server cannot go on with is not kept.
func TestFetchLeavesNothingUseless(t *testing.T) {
	f := &fickle{T: t, body: strings.Repeat("0123456789", 1000), header: http.Header{"Last-Modified": nil}}
	f.cut = func() {}
	s := fetcher(t)
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := s.Fetch(ctx, server(t, f.ServeHTTP).URL, asking(FetchOptions{Progress: func(int64, int64) { cancel() }})); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if left := must(filepath.Glob(filepath.Join(s.state, "partial/*")))(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A download is noted while it comes: a kill costs no more than what came since.
func TestFetchIsNoted(t *testing.T) {
	f := &fickle{T: t, body: strings.Repeat("0123456789abcdef", noteEvery/16+1<<16), header: http.Header{"Etag": {`"large"`}}}
	s := fetcher(t)
	noted := false
	fetched(t, s, server(t, f.ServeHTTP).URL, FetchOptions{Progress: func(done, _ int64) {
		notes, _ := filepath.Glob(filepath.Join(s.state, "partial/*.json"))
		noted = noted || len(notes) == 1 && done < int64(len(f.body))
	}})
	if !noted {
		t.Error("nothing was noted before the end")
	}
}
