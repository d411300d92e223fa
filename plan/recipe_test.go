package plan

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// contents stand for the files and images of a machine, by their last names.
type contents map[string]string

func (c contents) Tree(_ context.Context, from layers.Source, how Reading) (digest.Digest, error) {
	text, ok := c[filepath.Base(from.Path)]
	if !ok {
		return "", os.ErrNotExist
	}
	return digest.FromString(text + how.Normalize + strings.Join(how.Ignore, "\n")), nil
}

func (c contents) Image(_ context.Context, l *layers.Layer) (digest.Digest, error) {
	text, ok := c[l.From.URL]
	if !ok {
		return "", errors.New("not reachable")
	}
	return digest.FromString(text), nil
}

const stackerfile = `base:
  from:
    type: docker
    url: docker://h/base:1
  imports: [tool]
  run: install tool
  build_only: true
app:
  from: {type: built, tag: base}
  imports:
    - path: stacker://base/usr/bin/tool
      dest: /opt/
    - https://h/data.json
  overlay_dirs: [{source: files, dest: /etc}]
  build_env: {MODE: fast, API_TOKEN: t0ps3cret}
  run: make
  cmd: app
`

func recipesOf(t *testing.T, text string, r *Recipes) map[string]buildcache.Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stacker.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := layers.LoadAll([]string{path}, layers.Options{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]buildcache.Key{}
	for _, l := range g.Layers {
		if recipe, err := r.Of(t.Context(), g, l); err == nil {
			all[l.Name] = recipe
		}
	}
	return all
}

func machine() contents {
	return contents{"docker://h/base:1": "image", "tool": "tool", "files": "files"}
}

func TestRecipes(t *testing.T) {
	of := func(text string, c contents, settings ...string) map[string]buildcache.Key {
		return recipesOf(t, text, &Recipes{Contents: c, Environ: []string{"HOME=/home/me"}, Settings: settings})
	}
	want := of(stackerfile, machine())
	if len(want) != 2 || want["app"] == want["base"] {
		t.Fatalf("recipes %v, want two", want)
	}
	changed := func(name, text string) contents {
		c := machine()
		c[name] = text
		return c
	}
	replaced := func(old, new string) string {
		if !strings.Contains(stackerfile, old) {
			t.Fatalf("the stackerfile has no %q", old)
		}
		return strings.Replace(stackerfile, old, new, 1)
	}
	for name, test := range map[string]struct {
		got       map[string]buildcache.Key
		base, app bool // has another recipe
	}{
		"nothing, in another folder":  {of(stackerfile, machine()), false, false},
		"a label":                     {of(stackerfile+"  labels: {a: b}\n", machine()), false, false},
		"a secret's value":            {of(replaced("t0ps3cret", "0ther"), machine()), false, false},
		"the image behind a tag":      {of(stackerfile, changed("docker://h/base:1", "newer")), true, true},
		"the first layer's import":    {of(stackerfile, changed("tool", "newer")), true, true},
		"an overlay dir":              {of(stackerfile, changed("files", "newer")), false, true},
		"where it is laid":            {of(replaced("dest: /etc", "dest: /usr"), machine()), false, true},
		"a run":                       {of(replaced("run: make", "run: make all"), machine()), false, true},
		"the build environment":       {of(replaced("fast", "slow"), machine()), false, true},
		"where an import is copied":   {of(replaced("dest: /opt/", "dest: /opt/x"), machine()), false, true},
		"which path of a layer":       {of(replaced("/usr/bin/tool", "/bin/tool"), machine()), false, true},
		"a URL":                       {of(replaced("data.json", "data.xml"), machine()), false, true},
		"a setting":                   {of(stackerfile, machine(), "zstd"), true, true},
		"a layer that nobody watches": {of(replaced("  cmd: app", "  binds: [/tmp]"), machine()), false, true},
	} {
		if (test.got["base"] != want["base"]) != test.base || (test.got["app"] != want["app"]) != test.app {
			t.Errorf("%s: base has another recipe: %t, app: %t", name, test.got["base"] != want["base"], test.got["app"] != want["app"])
		}
	}
}

// A layer without a recipe leaves the layers that are built from it without one, and no
// others.
func TestNoRecipe(t *testing.T) {
	unreachable := machine()
	delete(unreachable, "docker://h/base:1")
	if got := recipesOf(t, stackerfile, &Recipes{Contents: unreachable}); len(got) != 0 {
		t.Errorf("recipes of what is not to be had: %v", got)
	}
	watched := strings.Replace(stackerfile, "  cmd: app", "  binds: [/tmp]", 1)
	if got := recipesOf(t, watched, &Recipes{Contents: machine()}); len(got) != 1 || got["base"] == "" {
		t.Errorf("recipes %v, want that of base alone", got)
	}
}
