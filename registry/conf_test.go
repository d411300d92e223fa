package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const someRegistries = `
unqualified-search-registries = ["quay.io"]

[[registry]]
prefix = "example.com/foo"
location = "internal.example/bar"
[[registry.mirror]]
location = "mirror-1.example/foo"
[[registry.mirror]]
location = "127.0.0.1:5000/deep/"
insecure = true

[[registry]]
location = "example.com/foo/more"
insecure = true

[[registry]]
prefix = "example.com"
location = "example.com:444"
mirror-by-digest-only = true
[[registry.mirror]]
location = "digests.example"

[[registry]]
prefix = "*.wild.example"
[[registry.mirror]]
location = "mirror.example/wild"

[[registry]]
prefix = "*.b.wild.example"
blocked = true

[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "hub.example"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "pins.example"
pull-from-mirror = "digest-only"
`

func TestEndpoints(t *testing.T) {
	var conf registriesConf
	must(t, conf.add("/some.conf", someRegistries))
	sum := digest.FromString("x").String()
	for text, want := range map[string]string{
		"example.com/foo/app:1":        "mirror-1.example/foo/app:1 127.0.0.1:5000/deep/app:1! internal.example/bar/app:1",
		"example.com/foo:1":            "mirror-1.example/foo:1 127.0.0.1:5000/deep:1! internal.example/bar:1",
		"example.com/foo@" + sum:       "mirror-1.example/foo@" + sum + " 127.0.0.1:5000/deep@" + sum + "! internal.example/bar@" + sum,
		"example.com/foo/more/app":     "example.com/foo/more/app:latest!",
		"example.com/foobar":           "example.com:444/foobar:latest",
		"example.com/x@" + sum:         "digests.example/x@" + sum + " example.com:444/x@" + sum,
		"example.com:5000/foo":         "example.com:5000/foo:latest",
		"a.wild.example/x":             "mirror.example/wild/x:latest a.wild.example/x:latest",
		"a.wild.example:80/x":          "mirror.example/wild/x:latest a.wild.example:80/x:latest",
		"wild.example/x":               "wild.example/x:latest",
		"evilwild.example/x":           "evilwild.example/x:latest",
		"a.b.wild.example/x":           "docker://a.b.wild.example/x: registry a.b.wild.example is blocked by /some.conf",
		"debian":                       "hub.example/library/debian:latest index.docker.io/library/debian:latest",
		"debian:12@" + sum:             "pins.example/library/debian@" + sum + " index.docker.io/library/debian@" + sum,
		"docker.io/group/app:1":        "hub.example/group/app:1 index.docker.io/group/app:1",
		"other.example/example.com/fo": "other.example/example.com/fo:latest",
	} {
		all, err := conf.endpoints(Ref{Name: "docker://" + text})
		var got []string
		for _, at := range all {
			name := at.ref.Name()
			if at.insecure {
				name += "!"
			}
			got = append(got, name)
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if joined := strings.Join(got, " "); joined != want {
			t.Errorf("%s:\n got %s\nwant %s", text, joined, want)
		}
	}
}

func TestFaultsOfRegistriesConf(t *testing.T) {
	for text, want := range map[string]string{
		"[registries.search]\nregistries = ['x']": "it has the form of version 1",
		"[[registry]]":                                      "neither prefix nor location",
		"[[registry]]\nprefix = 'x'":                        `of "x" has no location`,
		"[[registry]]\nprefix = '*.x/y'":                    `prefix "*.x/y": * stands only`,
		"[[registry]]\nlocation = 'a.*.x'":                  `prefix "a.*.x": * stands only`,
		"[[registry]]\nlocation = 'x'\n[[registry.mirror]]": `a mirror of "x" has no location`,
		"[[registry]]\nlocation = 'x'\n[[registry]]\nprefix = 'x/'\nlocation = 'y'":                                                 `two [[registry]] tables have the prefix "x"`,
		"[[registry]]\nlocation = 'x'\n[[registry.mirror]]\nlocation = 'm'\npull-from-mirror = 'never'":                             `pull-from-mirror = "never"`,
		"[[registry]]\nlocation = 'x'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm'\npull-from-mirror = 'all'": "only one of them",
		"[[registry]]\ninsecure = 'yes'": "toml: line 2",
		"[[registry":                     "toml: line 1",
	} {
		var conf registriesConf
		if err := conf.add("f", text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	for location, want := range map[string]string{
		"host.example/UPPER": "f: the registry x.example leads to ",
		"mirror":             `"mirror/app:latest", in which "mirror" is no host`,
	} {
		var conf registriesConf
		must(t, conf.add("f", "[[registry]]\nprefix = 'x.example'\nlocation = '"+location+"'"))
		if _, err := conf.endpoints(Ref{Name: "docker://x.example/app"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
}

// Which files count, and which of what they say.
func TestRegistriesFiles(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv(registriesVariable, "")
	user := filepath.Join(dir, "containers/registries.conf")
	must(t, os.MkdirAll(user+".d", 0o755))
	write(t, filepath.Join(user+".d", "20.conf"), "[[registry]]\nprefix = 'a'\nlocation = 'twenty'")
	write(t, filepath.Join(user+".d", "10.conf"), "[[registry]]\nprefix = 'a'\nlocation = 'ten'\n[[registry]]\nprefix = 'b'\nlocation = 'ten'")
	write(t, filepath.Join(user+".d", "ignored"), "[[")
	locations := func() string {
		conf, err := readRegistriesConf()
		must(t, err)
		var all []string
		for _, r := range conf {
			if strings.HasPrefix(r.file, dir) {
				all = append(all, r.Prefix+"="+r.Location)
			}
		}
		return strings.Join(all, " ")
	}
	if got := locations(); got != "b=ten a=twenty" {
		t.Error(got)
	}
	write(t, user, "[[registry]]\nprefix = 'c'\nlocation = 'user'\n[[registry]]\nprefix = 'b'\nlocation = 'user'")
	if got := locations(); got != "c=user b=ten a=twenty" {
		t.Error(got)
	}
	files, err := registriesFiles()
	if err != nil || strings.Contains(strings.Join(files, " "), "/etc/") {
		t.Errorf("beside the user's: %v, %v", files, err)
	}
	named := filepath.Join(dir, "named.conf")
	t.Setenv(registriesVariable, named)
	if _, err := readRegistriesConf(); !os.IsNotExist(err) {
		t.Error(err)
	}
	write(t, named, "[[registry]]\nprefix = 'd'\nlocation = 'named'")
	if got := locations(); got != "d=named b=ten a=twenty" {
		t.Error(got)
	}
	write(t, named, "[[registry]]")
	if _, err := readRegistriesConf(); err == nil || !strings.HasPrefix(err.Error(), named+": ") {
		t.Error(err)
	}
}

func FuzzRegistriesConf(f *testing.F) {
	for _, seed := range []string{someRegistries, "[[registry]]\nprefix = '*.x'", "[[registry]]\nlocation = 'docker.io/library'", "[registries]"} {
		f.Add(seed, "docker://docker.io/library/debian:12")
	}
	f.Fuzz(func(t *testing.T, text, image string) {
		var conf registriesConf
		if err := conf.add("f", text); err != nil {
			return
		}
		all, err := conf.endpoints(Ref{Name: image})
		if err == nil && len(all) == 0 {
			t.Error("an image is nowhere")
		}
	})
}
