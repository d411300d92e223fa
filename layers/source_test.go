package layers

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// What a base's url names, with type docker as stacker takes it, and with type oci.
func TestURLsOfBases(t *testing.T) {
	for url, want := range map[string]string{
		"docker://h/r:t":                 "docker docker://h/r:t ",
		"oci:dir:tag":                    "oci dir tag",
		"oci:dir/sub:tag:more":           "oci dir/sub tag:more",
		"oci-archive:f.tar":              "oci f.tar ",
		"oci-archive:f.tar:tag":          "oci f.tar tag",
		"docker-archive:f.tar:group/a:1": "oci f.tar group/a:1",
	} {
		for _, kind := range []string{BaseDocker, BaseOCI} {
			if kind == BaseOCI && url == "docker://h/r:t" {
				continue
			}
			dir := write(t, map[string]string{"stacker.yaml": fmt.Sprintf("a: {from: {type: %s, url: %q}}", kind, url)})
			g, err := Load("stacker.yaml", Options{})
			if err != nil {
				t.Errorf("%s: %v", url, err)
				continue
			}
			from := g.Layer("a").From
			if got := fmt.Sprint(from.Type, " ", from.URL, " ", from.Tag); got != want {
				t.Errorf("%s %s: %s, want %s", kind, url, got, want)
			}
			if from.Type == BaseOCI && from.Source.Path != filepath.Join(dir, from.URL) {
				t.Errorf("%s: at %s", url, from.Source.Path)
			}
		}
	}
}

func TestArchitectures(t *testing.T) {
	for text, want := range map[string]string{
		"arm64": "arm64", "linux/arm64": "arm64", "arm/v7": "arm/v7", "linux/arm/v6": "arm/v6", "arm/7": "arm/v7", "arm64/v8": "arm64/v8",
		"amd64/v3": "amd64/v3", "ppc64le/power9": "ppc64le/power9", "riscv64": "riscv64",
	} {
		if got := layer(t, "arch: "+text).Arch; got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"arm/v9":        `arch "arm/v9": arm has no variant "v9": it can be v5, v6, v7, v8`,
		"arm/":          `arch "arm/": arm has no variant "": it can be v5, v6, v7, v8`,
		"windows/amd64": `arch "windows/amd64" is no architecture: write a name with or without a variant, such as arm64 or arm/v7, and another OS as os`,
		"/v7":           `arch "/v7" is no architecture`,
		"mips/a/b":      `arch "mips/a/b" is no architecture`,
	} {
		write(t, map[string]string{"stacker.yaml": "x:\n  from: {type: scratch}\n  arch: " + text})
		if _, err := Load("stacker.yaml", Options{}); err == nil || !strings.Contains(err.Error(), `stacker.yaml:3:9: layer "x": `+want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
