package layers

import (
	"fmt"
	"path/filepath"
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
