package registry

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestLastModified(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, c := range []struct {
		name, modified, date string
		strong               bool
	}{
		{"old", at(-time.Hour), at(0), true},
		{"a minute old", at(-time.Minute), at(0), true},
		{"young", at(-59 * time.Second), at(0), false},
		{"from the future", at(time.Hour), at(0), false},
		{"no Date", at(-time.Hour), "", false},
		{"no time", "", at(0), false},
		{"not a time", "yesterday", at(0), false},
		{"not a Date", at(-time.Hour), "now", false},
		{"server's clock behind", at(-time.Hour), at(-time.Hour), false},
		{"server's clock ahead", at(-time.Second), at(time.Hour), false},
		{"both of yesterday", at(-25 * time.Hour), at(-24 * time.Hour), true},
	} {
		got := lastModified(http.Header{"Last-Modified": {c.modified}, "Date": {c.date}}, now)
		if got != "" && got != c.modified || (got != "") != c.strong {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

func TestFinalURL(t *testing.T) {
	for text, want := range map[string]string{
		"https://h/f":                         "https://h/f",
		"https://u:p@h/f?v=1#x":               "https://h/f?v=1",
		"https://h/f?token=secret&v=1":        "https://h/f?token=xxxxx&v=1",
		"https://h/f?expires=3&policy=x&sp=1": "https://h/f?expires=3&policy=x&sp=1",
		"https://h/f?versionId=7&X-Amz-Date=1&X-Amz-Signature=2&X-Amz-Expires=3": "https://h/f?versionId=7",
		"https://h/f?AWSAccessKeyId=a&Signature=b&Expires=1&v=2":                 "https://h/f?v=2",
		"https://h/f?sp=r&sv=2018-11-09&sr=b&se=2026&sig=abc&rscd=attachment":    "https://h/f?rscd=attachment",
		"https://h/f?X-Goog-Algorithm=x&X-Goog-Signature=y&generation=5":         "https://h/f?generation=5",
	} {
		u, err := url.Parse(text)
		must(t, err)
		if got := finalURL(u); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// Whatever a server says of a file, nothing without a strong validator is taken for
// unchanged.
func FuzzVersion(f *testing.F) {
	f.Add(`"1"`, "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 09:28:00 GMT", int64(5))
	f.Add(`W/"1"`, "x", "", int64(-1))
	f.Add("", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 09:28:00 GMT", int64(-1))
	f.Add(strings.Repeat("x", 2000), "", "", int64(0))
	f.Fuzz(func(t *testing.T, etag, modified, date string, length int64) {
		resp := &http.Response{
			Header:        http.Header{"Etag": {etag}, "Last-Modified": {modified}, "Date": {date}},
			Request:       &http.Request{URL: &url.URL{Scheme: "https", Host: "h", Path: "/f"}},
			ContentLength: max(length, -1),
		}
		v := versionOf(resp, time.Now())
		if v.is(resp) && !strong(etag) && (v.LastModified == "" || length < 0) {
			t.Errorf("%+v is taken for unchanged", v)
		}
		moved := *resp
		moved.Request = &http.Request{URL: &url.URL{Scheme: "https", Host: "h", Path: "/g"}}
		if v.is(&moved) || v.Continues() && !v.contradicts(&moved) {
			t.Errorf("%+v is taken for the file of another URL", v)
		}
	})
}
