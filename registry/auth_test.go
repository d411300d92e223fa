package registry

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

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
		"credHelpers":{"helped.example":"test","token.example":"test","broken.example":"test","slow.example":"test","gone.example":"gone","path.example":"x/../../bin/docker-credential-test","unknown.example":"test"}}`)
	write(t, second, `{"auths":{"https://old.example/v1/":{"auth":"b2xkOng="}, "empty.example":{"auth":"ZW1wdHk6eA=="}},"credsStore":"test"}`)
	files := Credentials{Files: []string{filepath.Join(dir, "missing.json"), first, second}}
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
		"path.example/x":     "error: credentials: " + first + `: credential helper docker-credential-x/../../bin/docker-credential-test: "docker-credential-x/../../bin/docker-credential-test" is not the name of a program`,
	} {
		r, err := name.NewRepository(repo)
		must(t, err)
		config, from, err := files.lookup(t.Context(), targetOf(r), true)
		var got string
		if err != nil {
			got = "error: " + err.Error()
		} else if config != nil {
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
	if _, _, err := files.lookup(ctx, targetOf(slow), true); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 2*time.Second {
		t.Errorf("given up after %s: %v", time.Since(begun), err)
	}
	write(t, first, `{"auths":{"x":"s3cret`)
	r, err := name.NewRepository("x.example/x")
	must(t, err)
	if _, _, err := files.lookup(t.Context(), targetOf(r), true); err == nil || strings.Contains(err.Error(), "s3cret") {
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
	if got := strings.Join(DefaultCredentials().Files, " "); got != want {
		t.Errorf("got %s", got)
	}
	t.Setenv("DOCKER_CONFIG", "/d")
	t.Setenv("XDG_CONFIG_HOME", "/c")
	want = "/run/user/7/containers/auth.json /c/containers/auth.json /d/config.json"
	if got := strings.Join(DefaultCredentials().Files, " "); got != want {
		t.Errorf("got %s", got)
	}
	t.Setenv("REGISTRY_AUTH_FILE", "/a")
	if got := strings.Join(DefaultCredentials().Files, " "); got != "/a" {
		t.Errorf("got %s", got)
	}
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
		f, err := parseAuthFile([]byte(text))
		if err != nil || len(f.CredHelpers) > 0 || f.CredsStore != "" {
			return // a helper is a program
		}
		if found, err := lookupIn(t.Context(), []byte(text), targetOf(repo), true); err == nil && found != nil && *found == (authn.AuthConfig{}) {
			t.Error("an empty login")
		}
	})
}

// Who is told what for a URL: what it says itself, its longest path, its host with the
// port before that without, and netrc last.
func TestCredentialsForURL(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "docker-credential-echo"), []byte("#!/bin/sh\nread server\nprintf '{\"Username\":\"%s\",\"Secret\":\"s\"}' \"$server\"\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	auth := filepath.Join(dir, "auth.json")
	netrc := filepath.Join(dir, "netrc")
	write(t, auth, `{"auths":{
		"reg.example":{"auth":"cmVnOng="},
		"reg.example/team/a":{"auth":"YTp4"},
		"https://Old.example:5000/v1/":{"auth":"dTpwOnc="},
		"plain.example":{"username":"plain","password":"x"},
		"https://plain.example/v1/":{"username":"url","password":"x"},
		"token.example":{"identitytoken":"x"}},
		"credHelpers":{"helped.example":"echo","port.example:81":"echo"},"credsStore":"echo"}`)
	write(t, netrc, "machine token.example login net password pw\ndefault login others password pw")
	c := Credentials{Files: []string{auth}, Netrc: netrc}
	for text, want := range map[string]string{
		"https://reg.example/f":                "reg:x",
		"https://reg.example:8443/f":           "reg:x",
		"https://reg.example/team/a":           "a:x",
		"https://reg.example/team/a/b?c":       "a:x",
		"https://reg.example/team/ab":          "reg:x",
		"https://me:p%40ss@reg.example/team/a": "me:p%40ss",
		"http://OLD.example:5000/f":            "u:p%3Aw",
		"https://old.example/f":                "others:pw",
		"https://plain.example/":               "plain:x",
		"https://token.example/":               "net:pw",
		"https://helped.example/":              "helped.example:s",
		"https://helped.example:444/":          "helped.example:s",
		"https://port.example:81/":             "port.example%3A81:s",
		"https://port.example/":                "others:pw",
		"https://[::1]:80/":                    "others:pw",
	} {
		u, err := url.Parse(text)
		must(t, err)
		got, err := c.ForURL(t.Context(), u, false)
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
	u, err := url.Parse("https://store.example:80/")
	must(t, err)
	if got, err := c.ForURL(t.Context(), u, true); err != nil || got.String() != "store.example%3A80:s" {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := (Credentials{}).ForURL(t.Context(), u, true); err != nil || got != nil {
		t.Errorf("%s, %v", got, err)
	}
}
