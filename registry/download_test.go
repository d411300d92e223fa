package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fetchFile returns the file behind a URL.
func fetchFile(t *testing.T, c *Client, text string) (string, error) {
	t.Helper()
	u, err := ParseURL(text)
	must(t, err)
	var sink memory
	_, _, err = c.Download(t.Context(), File{URL: u, Sink: &sink, Begin: func(Version) error { return nil }})
	return sink.String(), err
}

// A helper that serves all hosts is asked only where a server refuses: it is slow, may
// ask people, or may not be installed. One of a host is asked at once, and again when its
// login has expired.
func TestHelpersOfDownloads(t *testing.T) {
	dir := t.TempDir()
	secret, asked := filepath.Join(dir, "secret"), filepath.Join(dir, "asked")
	must(t, os.WriteFile(filepath.Join(dir, "docker-credential-test"),
		fmt.Appendf(nil, "#!/bin/sh\necho >> %s\nprintf '{\"Username\":\"u\",\"Secret\":\"%%s\"}' \"$(cat %s)\"\n", asked, secret), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); r.URL.Path == "/secret" && password != "valid" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "content")
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, c := range []struct {
		config, secret, path string
		asked                int
		refused              bool
	}{
		{`{"credsStore":"test"}`, "valid", "/open", 0, false},
		{`{"credsStore":"test"}`, "valid", "/secret", 1, false},
		{`{"credsStore":"test"}`, "wrong", "/secret", 1, true},
		{`{"credsStore":"missing"}`, "", "/open", 0, false},
		{`{"credHelpers":{"HOST":"test"}}`, "valid", "/secret", 1, false},
		{`{"credHelpers":{"HOST":"test"}}`, "wrong", "/secret", 2, true},
		{`{"auths":{"HOST":{"username":"u","password":"wrong"}},"credsStore":"test"}`, "valid", "/secret", 0, true},
		{`{}`, "", "/secret", 0, true},
	} {
		auth := filepath.Join(dir, "auth.json")
		write(t, auth, strings.ReplaceAll(c.config, "HOST", host))
		write(t, secret, c.secret)
		must(t, os.RemoveAll(asked))
		got, err := fetchFile(t, impatient(auth), srv.URL+c.path)
		if c.refused && (!errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "401 Unauthorized: give a user and password")) || !c.refused && (err != nil || got != "content") {
			t.Errorf("%s %s %s: %q, %v", c.config, c.secret, c.path, got, err)
		}
		if lines, _ := os.ReadFile(asked); len(lines) != c.asked {
			t.Errorf("%s %s %s: the helper was asked %d times", c.config, c.secret, c.path, len(lines))
		}
	}
}

// Each failure of a server of files is of a kind, and reports whether waiting may help.
func TestKindsOfFailedDownloads(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	if _, err := fetchFile(t, impatient(), gone.URL); !errors.Is(err, ErrUnreachable) || !Passing(err) {
		t.Error(err)
	}
	for status, want := range map[int]struct {
		kind    error
		passing bool
	}{
		401: {ErrUnauthorized, false}, 403: {ErrForbidden, false}, 404: {ErrNotFound, false}, 408: {nil, true}, 410: {nil, false},
		429: {ErrTooManyRequests, true}, 500: {ErrServer, true}, 501: {ErrServer, false}, 503: {ErrServer, true},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
		_, err := fetchFile(t, impatient(), srv.URL)
		srv.Close()
		var told *StatusError
		if !errors.As(err, &told) || told.Status != status || told.Unwrap() != want.kind || Passing(err) != want.passing {
			t.Errorf("%d: %v, passing %v", status, err, Passing(err))
		}
	}
}
