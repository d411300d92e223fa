package registry

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestNamesOfImages(t *testing.T) {
	sum := digest.FromString("x").String()
	for text, want := range map[string]string{
		"docker://debian":                                      "index.docker.io/library/debian:latest",
		"debian:12":                                            "index.docker.io/library/debian:12",
		"docker://docker.io/group/app":                         "index.docker.io/group/app:latest",
		"docker://host:5000/a/b/c:t":                           "host:5000/a/b/c:t",
		"docker://reg.example/app:t@" + sum:                    "reg.example/app@" + sum,
		"docker://localhost/app":                               "localhost/app:latest",
		"docker://host/app@sha512:" + strings.Repeat("0", 128): "",
		"docker://host/app@sha256:1":                           "",
		"docker://":                                            "",
		"docker://Host/UPPER":                                  "",
		"docker://user:secret@host/app":                        "",
		"docker://user:secret@host/app:12":                     "",
	} {
		ref, err := Ref{Name: text}.parse()
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, %v", text, ref, err)
			}
			continue
		}
		if err != nil || ref.Name() != want {
			t.Errorf("%s: %v, %v", text, ref, err)
		}
	}
}

func FuzzImageName(f *testing.F) {
	for _, seed := range []string{"debian:12", "docker://host:5000/a/b:t@sha256:" + strings.Repeat("0", 64), "docker://u:p@h/x", "[::1]:5000/x", "a@b@c", "//", "host/\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := Ref{Name: text}.parse()
		if err == nil && (ref.Context().RegistryStr() == "" || strings.ContainsAny(ref.Name(), " \n\x1b?#")) {
			t.Errorf("%q is taken for %q", text, ref.Name())
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: %q", text, err)
		}
	})
}
