package imports

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A state of a file on a server, and how the server tells it from others.
type state struct {
	body     string
	etag     string
	modified time.Time
	date     time.Time // that the server believes it is; none if zero
	at       string    // where the URL leads; "" for nowhere else
}

// An origin serves one file, honestly or not.
type origin struct {
	mu    sync.Mutex
	now   state
	lie   func(w http.ResponseWriter, r *http.Request, now state) bool // answers instead; nil for none
	sent  int64                                                        // bytes of bodies
	asked []string                                                     // methods
}

func (o *origin) set(now state, lie func(http.ResponseWriter, *http.Request, state) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now, o.lie, o.sent, o.asked = now, lie, 0, nil
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now
	if now.at != "" && r.URL.RequestURI() != now.at {
		http.Redirect(w, r, now.at, http.StatusFound)
		return
	}
	o.asked = append(o.asked, r.Method)
	w.Header()["Date"] = nil
	if !now.date.IsZero() {
		w.Header().Set("Date", now.date.UTC().Format(http.TimeFormat))
	}
	if now.etag != "" {
		w.Header().Set("ETag", now.etag)
	}
	if o.lie != nil && o.lie(w, r, now) {
		return
	}
	http.ServeContent(&counted{w, &o.sent}, r, "", now.modified, strings.NewReader(now.body))
}

type counted struct {
	http.ResponseWriter
	n *int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	*c.n += int64(n)
	return n, err
}

// notModified answers each question whether the file has changed with no.
func notModified(header ...string) func(http.ResponseWriter, *http.Request, state) bool {
	return func(w http.ResponseWriter, r *http.Request, _ state) bool {
		if r.Header.Get("If-None-Match")+r.Header.Get("If-Modified-Since") == "" {
			return false
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Del(header[i])
			if header[i+1] != "" {
				w.Header().Set(header[i], header[i+1])
			}
		}
		w.WriteHeader(http.StatusNotModified)
		return true
	}
}

// ignorant sends the whole file, whatever it is asked.
func ignorant(header ...string) func(http.ResponseWriter, *http.Request, state) bool {
	return func(w http.ResponseWriter, r *http.Request, now state) bool {
		if !now.modified.IsZero() {
			w.Header().Set("Last-Modified", now.modified.UTC().Format(http.TimeFormat))
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(now.body)))
		if r.Method != http.MethodHead {
			fmt.Fprint(w, now.body)
		}
		return true
	}
}

// without refuses a method.
func without(method string) func(http.ResponseWriter, *http.Request, state) bool {
	return func(w http.ResponseWriter, r *http.Request, _ state) bool {
		if r.Method == method {
			w.WriteHeader(http.StatusNotImplemented)
		}
		return r.Method == method
	}
}

// A file is fetched again whenever it may have changed, whatever the server says, and a
// large one is not if the server can tell that it has not.
func TestFetchAsksByStrongValidators(t *testing.T) {
	const large = 300 << 10
	huge := strings.Repeat("huge", 8<<20) // more than is sent before the server sees that no one reads
	body := func(text string, n int) string { return strings.Repeat(text, n/len(text)) }
	small1, small2, longer := "version one", "version two", "version three"
	large1, large2 := body("one.", large), body("two.", large)
	now := time.Now()
	old, older := now.Add(-time.Hour), now.Add(-2*time.Hour)
	for name, test := range map[string]struct {
		was, is state
		lie     func(http.ResponseWriter, *http.Request, state) bool
		kept    bool // nothing, or of a large file nearly nothing, is sent
	}{
		// Nothing has changed.
		"etag":                           {state{large1, `"1"`, time.Time{}, now, ""}, state{large1, `"1"`, time.Time{}, now, ""}, nil, true},
		"etag, small":                    {state{small1, `"1"`, time.Time{}, now, ""}, state{small1, `"1"`, time.Time{}, now, ""}, nil, true},
		"etag, no Date":                  {state{large1, `"1"`, time.Time{}, time.Time{}, ""}, state{large1, `"1"`, time.Time{}, time.Time{}, ""}, nil, true},
		"etag, server ignores questions": {state{large1, `"1"`, time.Time{}, now, ""}, state{large1, `"1"`, time.Time{}, now, ""}, ignorant(), true},
		"etag, 304 says nothing":         {state{large1, `"1"`, old, now, ""}, state{large1, `"1"`, old, now, ""}, notModified("ETag", ""), true},
		"modified":                       {state{large1, "", old, now, ""}, state{large1, "", old, now, ""}, nil, true},
		"modified, no HEAD":              {state{huge, "", old, now, ""}, state{huge, "", old, now, ""}, without("HEAD"), true},
		"modified, weak etag":            {state{large1, `W/"1"`, old, now, ""}, state{large1, `W/"1"`, old, now, ""}, nil, true},
		"redirected":                     {state{large1, `"1"`, old, now, "/a"}, state{large1, `"1"`, old, now, "/a"}, nil, true},
		"redirected, signed anew": {state{large1, `"1"`, old, now, "/a?v=1&X-Amz-Date=1&X-Amz-Signature=2"},
			state{large1, `"1"`, old, now, "/a?v=1&X-Amz-Date=3&X-Amz-Signature=4"}, nil, true},

		// Another file, honestly.
		"other etag":        {state{large1, `"1"`, old, now, ""}, state{large2, `"2"`, old, now, ""}, nil, false},
		"newer":             {state{large1, "", older, now, ""}, state{large2, "", old, now, ""}, nil, false},
		"etag becomes weak": {state{large1, `"1"`, time.Time{}, now, ""}, state{large2, `W/"1"`, time.Time{}, now, ""}, nil, false},

		// Servers compare times for newer: a rollback, rsync -t, tar -x.
		"rolled back":        {state{large1, "", old, now, ""}, state{large2, "", older, now, ""}, nil, false},
		"rolled back, small": {state{small1, "", old, now, ""}, state{small2, "", older, now, ""}, nil, false},

		// Times have whole seconds, and can be set.
		"same time, other length":          {state{large1, "", old, now, ""}, state{large2 + "x", "", old, now, ""}, nil, false},
		"same time, small":                 {state{small1, "", old, now, ""}, state{small2, "", old, now, ""}, nil, false},
		"same time, small, other length":   {state{small1, "", old, now, ""}, state{longer, "", old, now, ""}, nil, false},
		"same time, was young":             {state{large1, "", now.Add(-5 * time.Second), now, ""}, state{large2, "", now.Add(-5 * time.Second), now, ""}, nil, false},
		"same time, no Date":               {state{large1, "", old, time.Time{}, ""}, state{large2, "", old, time.Time{}, ""}, nil, false},
		"same time, server's clock behind": {state{large1, "", now, now.Add(-time.Hour), ""}, state{large2, "", now, now.Add(-time.Hour), ""}, nil, false},
		"same time, server's clock ahead":  {state{large1, "", now, now.Add(time.Hour), ""}, state{large2, "", now, now.Add(time.Hour), ""}, nil, false},
		"same time in the future":          {state{large1, "", now.Add(time.Hour), now, ""}, state{large2, "", now.Add(time.Hour), now, ""}, nil, false},
		"same time, other weak etag":       {state{large1, `W/"1"`, old, now, ""}, state{large2, `W/"2"`, old, now, ""}, nil, false},
		"same time, other etag":            {state{large1, `"1"`, old, now, ""}, state{large2, `"2"`, old, now, ""}, notModified(), false},

		// Weak ETags are of files that mean the same, not of the same bytes.
		"same weak etag":        {state{large1, `W/"1"`, time.Time{}, now, ""}, state{large2, `W/"1"`, time.Time{}, now, ""}, nil, false},
		"same weak etag, small": {state{small1, `W/"1"`, time.Time{}, now, ""}, state{small2, `W/"1"`, time.Time{}, now, ""}, nil, false},
		"empty etag":            {state{large1, `""`, time.Time{}, now, ""}, state{large2, `""`, time.Time{}, now, ""}, nil, false},
		"no validators":         {state{large1, "", time.Time{}, now, ""}, state{large2, "", time.Time{}, now, ""}, nil, false},

		// ETags are of one URL, and two may have the same.
		"redirect moves":                 {state{large1, `"1"`, old, now, "/a"}, state{large2, `"1"`, old, now, "/b"}, nil, false},
		"redirect moves, small":          {state{small1, `"1"`, old, now, "/a"}, state{small2, `"1"`, old, now, "/b"}, nil, false},
		"redirect moves, times":          {state{large1, "", old, now, "/a"}, state{large2, "", old, now, "/b"}, nil, false},
		"redirect moves, by a parameter": {state{large1, `"1"`, old, now, "/a?v=1&sig=x&se=1"}, state{large2, `"1"`, old, now, "/a?v=2&sig=x&se=1"}, nil, false},
		"redirect is new":                {state{large1, `"1"`, old, now, ""}, state{large2, `"1"`, old, now, "/a"}, nil, false},
		"redirect is gone":               {state{large1, `"1"`, old, now, "/a"}, state{large2, `"1"`, old, now, ""}, nil, false},

		// Answers that contradict themselves.
		"304 with another etag":       {state{large1, `"1"`, old, now, ""}, state{large2, `"2"`, old, now, ""}, notModified("ETag", `"2"`), false},
		"304 with a weak etag":        {state{large1, `"1"`, old, now, ""}, state{large2, `"1"`, old, now, ""}, notModified("ETag", `W/"1"`), false},
		"304 with another time":       {state{large1, `"1"`, old, now, ""}, state{large2, `"1"`, old, now, ""}, notModified("Last-Modified", now.UTC().Format(http.TimeFormat)), false},
		"same etag, other length":     {state{large1, `"1"`, old, now, ""}, state{large2 + "x", `"1"`, old, now, ""}, ignorant(), false},
		"same etag, other time":       {state{large1, `"1"`, old, now, ""}, state{large2, `"1"`, older, now, ""}, ignorant(), false},
		"same time, no length":        {state{large1, "", old, now, ""}, state{large2, "", old, now, ""}, chunked, false},
		"same time, small, no length": {state{small1, "", old, now, ""}, state{small2, "", old, now, ""}, chunked, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := &origin{}
			srv := httptest.NewServer(o)
			defer srv.Close()
			s := fetcher(t)
			o.set(test.was, nil)
			if got := content(t, fetched(t, s, srv.URL+"/f", FetchOptions{})); got != test.was.body {
				t.Fatalf("at first %.20q", got)
			}
			for again := range 2 { // the second time by what the first has kept
				o.set(test.is, test.lie)
				if got := content(t, fetched(t, s, srv.URL+"/f", FetchOptions{})); got != test.is.body {
					t.Errorf("%.20q of %d bytes", got, len(got))
				}
				o.mu.Lock()
				if test.kept && o.sent > int64(len(huge)/2) || test.kept && o.sent > 0 && len(test.is.body) < len(huge) {
					t.Errorf("time %d: %d bytes were sent, for %v", again+1, o.sent, o.asked)
				}
				o.mu.Unlock()
			}
		})
	}
}

// chunked does not say how long the file is.
func chunked(w http.ResponseWriter, r *http.Request, now state) bool {
	w.Header().Set("Last-Modified", now.modified.UTC().Format(http.TimeFormat))
	if r.Method != http.MethodHead {
		w.(http.Flusher).Flush()
		fmt.Fprint(w, now.body)
	}
	return true
}

// A part is not gone on with from where a redirect leads by now.
func TestFetchResumesOnlyWhereItWas(t *testing.T) {
	old, now := strings.Repeat("a", 5000), strings.Repeat("b", 5000)
	first := true
	s := fetcher(t)
	srv := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"same"`)
		switch {
		case r.URL.Path == "/f" && first:
			http.Redirect(w, r, "/old", http.StatusFound)
		case r.URL.Path == "/f":
			http.Redirect(w, r, "/new", http.StatusFound)
		case r.URL.Path == "/old":
			first = false
			w.Header().Set("Content-Length", "5000")
			fmt.Fprint(w, old[:1000])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(now))
		}
	})
	if got := content(t, fetched(t, s, srv.URL+"/f", FetchOptions{})); got != now {
		t.Errorf("%d bytes, %d of old", len(got), strings.Count(got, "a"))
	}
}

// What an earlier version has kept is read, but what it has not kept is not guessed.
func TestFetchWithValidatorsOfEarlierVersions(t *testing.T) {
	o := &origin{}
	srv := httptest.NewServer(o)
	t.Cleanup(srv.Close)
	s := fetcher(t)
	was := state{strings.Repeat("one.", 100_000), `"1"`, time.Now().Add(-time.Hour), time.Now(), ""}
	o.set(was, nil)
	d := fetched(t, s, srv.URL+"/f", FetchOptions{})
	kept := must(filepath.Glob(filepath.Join(s.state, "downloads/urls/*.json")))(t)[0]
	var fields map[string]any
	ok(t, json.Unmarshal(must(os.ReadFile(kept))(t), &fields))
	if fields["from"] == nil {
		t.Fatalf("kept %v", fields)
	}
	delete(fields, "from")
	ok(t, os.WriteFile(kept, must(json.Marshal(fields))(t), 0o644))
	if got, err := s.Fetch(context.Background(), srv.URL+"/f", FetchOptions{Offline: true}); err != nil || got != d {
		t.Errorf("%+v, %v", got, err)
	}
	o.set(was, nil)
	if content(t, fetched(t, s, srv.URL+"/f", FetchOptions{})); o.sent == 0 {
		t.Error("it is not known where it came from, and it was not fetched")
	}
	o.set(was, nil)
	if content(t, fetched(t, s, srv.URL+"/f", FetchOptions{})); o.sent != 0 {
		t.Errorf("%d bytes were sent", o.sent)
	}
}
