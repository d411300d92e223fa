package redact

import (
	"net/url"
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://host/path?v=1":                      "https://host/path?v=1",
		"https://user:pw@host/path@x":                "https://xxxxx@host/path@x",
		"https://token@host":                         "https://xxxxx@host",
		"https://a:b@c@host/x":                       "https://xxxxx@host/x",
		"get https://a:b@h/ and http://c:d@i/":       "get https://xxxxx@h/ and http://xxxxx@i/",
		"http://h/f?token=s&x=1":                     "http://h/f?token=xxxxx&x=1",
		"http://h/f?x=1&X-Amz-Signature=ab%20c#frag": "http://h/f?x=1&X-Amz-Signature=xxxxx#frag",
		"http://h/f?sig=abc&design=1":                "http://h/f?sig=xxxxx&design=1",
		"http://h/path:with@at":                      "http://h/path:with@at",
		"http://u:p@h":                               "http://xxxxx@h",
		"%zz://u:p@h/":                               "%zz://xxxxx@h/",
		"docker://busybox:1.36@sha256:0123":          "docker://busybox:1.36@sha256:0123",
	} {
		if got := URL(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("host", "user", "pass")
	f.Add("host:80", "a@b", "c:d/e")
	f.Fuzz(func(t *testing.T, host, user, password string) {
		u := &url.URL{Scheme: "https", Host: host, User: url.UserPassword(user, password), Path: "/f"}
		if _, err := url.Parse(u.String()); err != nil || strings.ContainsAny(host, "@/?# ") {
			return
		}
		want := "https://" + hidden + "@" + strings.TrimPrefix((&url.URL{Scheme: "https", Host: host, Path: "/f"}).String(), "https://")
		if got := URL(u.String()); got != want {
			t.Errorf("%q: %q, want %q", u, got, want)
		}
	})
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"run: curl https://u:p@h/f?token=a -H ghp_0123456789abcdef":               "run: curl https://xxxxx@h/f?token=xxxxx -H xxxxx",
		"a\n-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----\nb": "a\nxxxxx\nb",
		"url: docker://busybox:1.36@sha256:0123":                                  "url: docker://busybox:1.36@sha256:0123",
		"mail me@example.org: {a: b}":                                             "mail me@example.org: {a: b}",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
