package engine

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/layerbuild/layerbuild/sandbox"
)

const surroundingsFile = `
app:
  from: {type: tar, url: base.tar}
  binds:
  - {source: bound, dest: /bound, track: true}
  secrets: [{id: key}, {id: plain}]
  caches: [{id: c, path: /cache}]
  tmpfs: [/memory]
  build_env: {A: "1"}
  build_env_passthrough: [PASSED]
  network: host
  DIRECTIVE: |
    #!fake
    nothing
`

// TestSurroundings changes what a script sees besides its rootfs and its imports, for both
// kinds of scripts: each change runs it again, and what it does not see does not.
func TestSurroundings(t *testing.T) {
	rows := []struct {
		field string // of sandbox.Step
		what  string
		ran   int
		edit  func(*fixture)
	}{
		{"Args", "the script", 1, func(f *fixture) { f.yaml("nothing", "none") }},
		{"Env", "a variable of build_env", 1, func(f *fixture) { f.yaml(`{A: "1"}`, `{A: "2"}`) }},
		{"Env", "a variable that is passed through", 1, func(f *fixture) { f.setenv("PASSED", "2") }},
		{"Env", "SOURCE_DATE_EPOCH that is not passed on", 0, func(f *fixture) { f.options.Clock.Epoch = time.Unix(1e9, 0) }},
		{"Env", "SOURCE_DATE_EPOCH that is", 1, func(f *fixture) { f.options.Clock = Clock{Epoch: time.Unix(1e9, 0), Seen: true} }},
		{"Env", "SOURCE_DATE_EPOCH that is not set", 1, func(f *fixture) { f.options.Clock.Now = true }},
		{"Env", "the variable of a secret", 1, func(f *fixture) { f.yaml("{id: plain}", "{id: plain, env: PLAIN}") }},
		{"Network", "the network", 1, func(f *fixture) { f.yaml("network: host", "network: none") }},
		{"Limits", "limits", 0, func(f *fixture) { f.options.Limits.PIDs = 1000 }},
		{"Mounts", "content of a tracked bind", 1, func(f *fixture) { f.write("bound/file", "other") }},
		{"Mounts", "mode of a tracked bind", 1, func(f *fixture) { f.check(os.Chmod(f.path("bound/file"), 0o600)) }},
		{"Mounts", "owner and time of a tracked bind", 0, func(f *fixture) {
			f.check(os.Chown(f.path("bound/file"), 7, 7))
			f.check(os.Chtimes(f.path("bound/file"), time.Unix(1, 0), time.Unix(1, 0)))
		}},
		{"Mounts", "place of a tracked bind", 1, func(f *fixture) { f.yaml("dest: /bound", "dest: /b") }},
		{"Mounts", "one tracked bind more", 1, func(f *fixture) { f.yaml("  binds:\n", "  binds:\n  - {source: more, dest: /more, track: true}\n") }},
		{"Mounts", "a bind that is not tracked", 1, func(f *fixture) { f.yaml("  binds:\n", "  binds:\n  - more -> /more\n") }},
		{"Mounts", "place of a cache", 1, func(f *fixture) { f.yaml("path: /cache", "path: /c") }},
		{"Mounts", "id of a cache", 0, func(f *fixture) { f.yaml("id: c,", "id: d,") }},
		{"Files", "a keyed secret", 1, func(f *fixture) { f.options.Secrets[0].value = func() ([]byte, error) { return []byte("other"), nil } }},
		{"Files", "a secret", 0, func(f *fixture) { f.options.Secrets[1].value = func() ([]byte, error) { return []byte("other"), nil } }},
		{"Files", "place of a secret", 1, func(f *fixture) { f.yaml("{id: plain}", "{id: plain, target: /plain}") }},
		{"Tmpfs", "a folder in memory", 1, func(f *fixture) { f.yaml("[/memory]", "[/memory, /m]") }},
		{"Rootfs", "the base", 1, func(f *fixture) { f.tar("other") }},
		{"", "the platform", 1, func(f *fixture) { f.yaml("  network", "  arch: riscv64\n  network") }},
		{"", "the layer's name", 1, func(f *fixture) { f.yaml("app:", "other:") }},
		{"", "what only the image says", 0, func(f *fixture) { f.yaml("  network", "  cmd: [c]\n  network") }},
	}
	for _, directive := range []string{"run", "generate_labels"} {
		for _, row := range rows {
			t.Run(directive+" "+row.what, func(t *testing.T) {
				t.Setenv("PASSED", "1")
				f := &fixture{t: t, dir: t.TempDir(), state: t.TempDir()}
				f.write("stacker.yaml", strings.Replace(surroundingsFile, "DIRECTIVE", directive, 1))
				f.write("bound/file", "bound")
				f.write("more/file", "more")
				f.tar("base")
				for _, id := range []string{"key", "plain"} {
					value := func() ([]byte, error) { return []byte("value"), nil }
					f.options.Secrets = append(f.options.Secrets, &Secret{ID: id, Keyed: id == "key", value: value})
				}
				if first := f.build(); len(first.scripts) != 1 {
					t.Fatalf("%d scripts ran first", len(first.scripts))
				}
				row.edit(f)
				if again := f.build(); len(again.scripts) != row.ran {
					t.Errorf("%d scripts ran, want %d\n%s", len(again.scripts), row.ran, again.log)
				}
			})
		}
	}
	// build_user is a run's alone, which TestInputs shows; nobody sets the folder or the host name, and
	// the rest is where output goes.
	seen := map[string]bool{"User": true, "Cwd": true, "Hostname": true, "Stdin": true, "Stdout": true, "Stderr": true, "Terminal": true}
	for _, row := range rows {
		seen[row.field] = true
	}
	for field := range reflect.TypeFor[sandbox.Step]().Fields() {
		if !seen[field.Name] {
			t.Errorf("nothing shows what a change of sandbox.Step.%s does", field.Name)
		}
	}
}

// TestClampEpoch builds a chain of three for two commits: nothing runs twice, and the images
// differ only in when they were created. A script sees what its files are clamped to.
func TestClampEpoch(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir(), state: t.TempDir()}
	var yaml strings.Builder
	for i, from := range []string{"{type: tar, url: base.tar}", "{type: built, tag: l0}", "{type: built, tag: l1}"} {
		fmt.Fprintf(&yaml, "l%d:\n  from: %s\n  run: |\n    #!fake\n    see l%d\n  generate_labels: |\n    #!fake\n    label l %d\n", i, from, i, i)
	}
	f.write("stacker.yaml", yaml.String())
	f.tar("base")
	plain := f.build()
	if len(plain.scripts) != 6 {
		t.Errorf("%d scripts ran", len(plain.scripts))
	}
	images := map[string]bool{plain.manifests["l2"]: true}
	for _, commit := range []int64{1_500_000_000, 1_600_000_000} {
		f.options.Clock = Clock{Epoch: time.Unix(commit, 0).UTC()}
		built := f.build()
		if len(built.scripts) != 0 {
			t.Errorf("for the commit of %d, %d scripts ran\n%s", commit, len(built.scripts), built.log)
		}
		images[built.manifests["l2"]] = true
	}
	if len(images) != 3 {
		t.Errorf("there are %d images", len(images))
	}
}
