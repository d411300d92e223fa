package engine

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
)

// A fixture is a project that reads something of every kind, in a folder of its
// own, and the state folder that it was built with.
type fixture struct {
	t          *testing.T
	dir, state string
	options    Options
}

const fixtureFile = `
base:
  from: {type: tar, url: base.tar}
  imports: [{path: b, dest: /b}]
  run: |
    #!fake
    put made 1
app:
  from: {type: built, tag: base}
  imports:
  - file
  - dir
  - path: copied
    dest: /copied
  - path: copieddir
    dest: /copieddir
  - path: stacker://base/b
  - path: stacker://base/b
    dest: /fromlayer
  overlay_dirs:
  - {source: over, dest: /over}
  binds:
  - {source: bound, dest: /bound, track: true}
  run: |
    #!fake
    see everything
  generate_labels: |
    #!fake
    label generated 1
  build_env: {A: "1", B: "2"}
  build_env_passthrough: [PASSED, http_proxy]
  environment: {E: "1"}
  labels: {L: "1"}
  annotations: {N: "1"}
  volumes: [/v]
  working_dir: /w
  runtime_user: u
  cmd: [c]
  entrypoint: [e]
`

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, dir: t.TempDir(), state: t.TempDir()}
	f.write("stacker.yaml", fixtureFile)
	for _, name := range []string{"b", "file", "dir/file", "copied", "copieddir/file", "over/file", "bound/file"} {
		f.write(name, "content of "+name)
	}
	f.link("target", "dir/link")
	f.tar("base")
	return f
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) write(name, content string) {
	f.t.Helper()
	f.check(os.MkdirAll(filepath.Dir(f.path(name)), 0o755))
	f.check(os.WriteFile(f.path(name), []byte(content), 0o644))
}

func (f *fixture) link(target, name string) {
	f.t.Helper()
	_ = os.Remove(f.path(name))
	f.check(os.Symlink(target, f.path(name)))
}

// tar makes base.tar, a root filesystem of one file.
func (f *fixture) tar(content string) {
	f.t.Helper()
	tree := f.t.TempDir()
	f.check(os.WriteFile(filepath.Join(tree, "in-base"), []byte(content), 0o644))
	out, err := exec.Command("tar", "--mtime=@0", "-C", tree, "-cf", f.path("base.tar"), "in-base").CombinedOutput()
	if err != nil {
		f.t.Fatal(string(out))
	}
}

// yaml replaces text of the stackerfile.
func (f *fixture) yaml(old, new string) {
	f.t.Helper()
	text, err := os.ReadFile(f.path("stacker.yaml"))
	f.check(err)
	if !strings.Contains(string(text), old) {
		f.t.Fatalf("the stackerfile has no %q", old)
	}
	f.write("stacker.yaml", strings.Replace(string(text), old, new, 1))
}

func (f *fixture) setenv(name, value string) { f.t.Setenv(name, value) }

// missed builds again, and says in letters which steps of any layer were done:
// R rootfs, L labels, P pack; and I when app's image is another.
func (f *fixture) missed(before built) string {
	f.t.Helper()
	after := f.build()
	out := ""
	for _, script := range after.scripts {
		if strings.Contains(script, "label") {
			out += "L"
		} else {
			out += "R"
		}
	}
	letters := ""
	for _, letter := range "RL" {
		if strings.ContainsRune(out, letter) {
			letters += string(letter)
		}
	}
	if after.packs > before.packs {
		letters += "P"
	}
	if after.manifests["app"] != before.manifests["app"] {
		letters += "I"
	}
	return letters
}

func (f *fixture) build() built {
	f.t.Helper()
	return buildWith(f.t, f.dir, f.state, f.options)
}

// TestInputs has a row for each thing that can change, and says which steps must
// be done again and which must not.
func TestInputs(t *testing.T) {
	now := time.Now().Add(-time.Hour)
	for _, row := range []struct {
		what string
		want string
		edit func(*fixture)
	}{
		{"nothing", "", func(f *fixture) {}},

		// What a rootfs step reads.
		{"run", "RLPI", func(f *fixture) { f.yaml("see everything", "see all") }},
		{"a comment in run", "RLPI", func(f *fixture) { f.yaml("    see everything", "    # why\n    see everything") }},
		{"build_env: value", "RLPI", func(f *fixture) { f.yaml(`A: "1"`, `A: "2"`) }},
		{"build_env: added", "RLPI", func(f *fixture) { f.yaml(`A: "1"`, `A: "1", C: ""`) }},
		{"build_env: removed", "RLPI", func(f *fixture) { f.yaml(`A: "1", `, ``) }},
		{"build_env: a value moves to another name", "RLPI", func(f *fixture) { f.yaml(`A: "1", B: "2"`, `A: "2", B: "1"`) }},
		{"passed-through variable: value", "RLPI", func(f *fixture) { f.setenv("PASSED", "2") }},
		{"passed-through variable: set", "RLPI", func(f *fixture) { f.yaml("[PASSED,", "[PASSED, OTHER,"); f.setenv("OTHER", "") }},
		{"import: content", "RLPI", func(f *fixture) { f.write("file", "other") }},
		{"import: content of equal length and mtime", "RLPI", func(f *fixture) {
			info, err := os.Stat(f.path("file"))
			f.check(err)
			f.write("file", "CONTENT of file")
			f.check(os.Chtimes(f.path("file"), info.ModTime(), info.ModTime()))
		}},
		{"import: mode", "RLPI", func(f *fixture) { f.check(os.Chmod(f.path("file"), 0o600)) }},
		{"import: setuid", "RLPI", func(f *fixture) { f.check(os.Chmod(f.path("file"), 0o755|os.ModeSetuid)) }},
		{"import: xattr", "RLPI", func(f *fixture) { f.check(unix.Setxattr(f.path("dir/file"), "user.x", []byte("1"), 0)) }},
		{"import: folder's mode", "RLPI", func(f *fixture) { f.check(os.Chmod(f.path("dir"), 0o700)) }},
		{"import: entry added", "RLPI", func(f *fixture) { f.write("dir/new", "") }},
		{"import: empty folder added", "RLPI", func(f *fixture) { f.check(os.Mkdir(f.path("dir/empty"), 0o755)) }},
		{"import: entry removed", "RLPI", func(f *fixture) { f.check(os.Remove(f.path("dir/file"))) }},
		{"import: entry renamed", "RLPI", func(f *fixture) { f.check(os.Rename(f.path("dir/file"), f.path("dir/elif"))) }},
		{"import: link target", "RLPI", func(f *fixture) { f.link("other", "dir/link") }},
		{"import: file becomes folder", "RLPI", func(f *fixture) { f.check(os.Remove(f.path("dir/file"))); f.check(os.Mkdir(f.path("dir/file"), 0o755)) }},
		{"import: file becomes link to its content", "RLPI", func(f *fixture) {
			f.check(os.Rename(f.path("dir/file"), f.path("kept")))
			f.link("../kept", "dir/file")
		}},
		{"import: its name", "RLPI", func(f *fixture) { f.check(os.Rename(f.path("file"), f.path("elif"))); f.yaml("- file", "- elif") }},
		{"import: import instead of imports", "RLPI", func(f *fixture) { f.yaml("  imports:\n  - file", "  import: file\n  imports:") }},
		{"import with dest: content", "RLPI", func(f *fixture) { f.write("copied", "other") }},
		{"import with dest: mode of a file in a folder", "RLPI", func(f *fixture) { f.check(os.Chmod(f.path("copieddir/file"), 0o755)) }},
		{"import with dest: content of a folder", "RLPI", func(f *fixture) { f.write("copieddir/file", "other") }},
		{"import with dest: dest", "RLPI", func(f *fixture) { f.yaml("dest: /copied\n", "dest: /elsewhere\n") }},
		{"import with dest: mode, uid, gid", "RLPI", func(f *fixture) { f.yaml("dest: /copied\n", "dest: /copied\n    mode: 0600\n    uid: 1\n    gid: 2\n") }},
		{"import with dest: root's ids spelled out", "", func(f *fixture) { f.yaml("dest: /copied\n", "dest: /copied\n    uid: 0\n    gid: 0\n") }},
		{"import with dest: order", "RLPI", func(f *fixture) {
			f.yaml("  - path: copied\n    dest: /copied\n  - path: copieddir\n    dest: /copieddir\n", "  - path: copieddir\n    dest: /x\n  - path: copied\n    dest: /x/file\n")
		}},
		{"stacker:// import: content", "RLPI", func(f *fixture) { f.write("b", "other") }},
		{"overlay dir: content", "RLPI", func(f *fixture) { f.write("over/file", "other") }},
		{"overlay dir: mode", "RLPI", func(f *fixture) { f.check(os.Chmod(f.path("over/file"), 0o755)) }},
		{"overlay dir: entry added", "RLPI", func(f *fixture) { f.write("over/new", "") }},
		{"overlay dir: dest", "RLPI", func(f *fixture) { f.yaml("dest: /over", "dest: /o") }},
		{"tracked bind: content", "RLPI", func(f *fixture) { f.write("bound/file", "other") }},
		{"tracked bind: dest", "RLPI", func(f *fixture) { f.yaml("dest: /bound", "dest: /b2") }},
		{"base: content", "RLPI", func(f *fixture) { f.tar("other") }},
		{"base: its run", "RLPI", func(f *fixture) { f.yaml("put made 1", "put made 2") }},
		{"arch", "RLI", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  arch: riscv64") }},
		{"network", "RLPI", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  network: none") }},
		{"epoch of the caller", "I", func(f *fixture) { f.options.Clock.Epoch = time.Unix(1e9, 0).UTC() }},
		{"epoch of the caller, passed through", "RLPI", func(f *fixture) {
			f.yaml("[PASSED,", "[PASSED, SOURCE_DATE_EPOCH,")
			f.setenv("SOURCE_DATE_EPOCH", "7")
		}},
		{"layer's name", "RLPI", func(f *fixture) {
			f.yaml("app:", "app2:")
			f.yaml("  cmd: [c]", "  cmd: [c]\napp:\n  from: {type: built, tag: app2}\n  cmd: [c]")
		}},

		// What other steps read, or nobody.
		{"a comment in the base's run, same result", "R", func(f *fixture) { f.yaml("    put made", "    # why\n    put made") }},
		{"generate_labels", "LI", func(f *fixture) { f.yaml("label generated 1", "label generated 2") }},
		{"environment", "I", func(f *fixture) { f.yaml(`E: "1"`, `E: "2"`) }},
		{"labels", "I", func(f *fixture) { f.yaml(`L: "1"`, `L: "2"`) }},
		{"annotations", "I", func(f *fixture) { f.yaml(`N: "1"`, `N: "2"`) }},
		{"volumes", "I", func(f *fixture) { f.yaml("[/v]", "[/v, /w]") }},
		{"expose", "I", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  expose: 80") }},
		{"stop_signal", "I", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  stop_signal: SIGQUIT") }},
		{"healthcheck", "I", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  healthcheck: none") }},
		{"shell", "I", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  shell: [/bin/bash, -c]") }},
		{"on_build", "I", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  on_build: RUN a") }},
		{"build_env_from_base", "RLPI", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  build_env_from_base: true") }},
		{"build_user", "RLPI", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  build_user: '7'") }},
		{"tmpfs", "RL", func(f *fixture) { f.yaml("  cmd: [c]", "  cmd: [c]\n  tmpfs: /t") }},
		{"base's environment", "I", func(f *fixture) { f.yaml("  imports: [{path: b", "  environment: {X: y}\n  imports: [{path: b") }},
		{"working_dir", "I", func(f *fixture) { f.yaml("/w\n", "/x\n") }},
		{"runtime_user", "I", func(f *fixture) { f.yaml("runtime_user: u", "runtime_user: v") }},
		{"cmd", "I", func(f *fixture) { f.yaml("cmd: [c]", "cmd: [d]") }},
		{"entrypoint", "I", func(f *fixture) { f.yaml("entrypoint: [e]", "entrypoint: [f]") }},
		{"full_command", "I", func(f *fixture) { f.yaml("cmd: [c]\n  entrypoint: [e]", "full_command: [f]") }},
		{"base's cmd", "I", func(f *fixture) { f.yaml("  imports: [{path: b", "  volumes: [/inherited]\n  imports: [{path: b") }},
		{"build_only base", "", func(f *fixture) { f.yaml("base:\n", "base:\n  build_only: true\n") }},
		{"proxy variable", "", func(f *fixture) { f.setenv("http_proxy", "http://elsewhere.invalid:1") }},
		{"a variable that is not let in", "", func(f *fixture) { f.setenv("UNRELATED", "1") }},
		{"mtime and atime", "", func(f *fixture) {
			for _, name := range []string{"file", "dir/file", "dir", "over/file", "copied", "bound/file", "stacker.yaml", "base.tar"} {
				f.check(os.Chtimes(f.path(name), now, now))
			}
		}},
		{"owner", "", func(f *fixture) {
			for _, name := range []string{"file", "dir/file", "dir", "over/file", "copied", "copieddir", "bound/file", "b"} {
				f.check(os.Lchown(f.path(name), 1234, 1234))
			}
		}},
		{"another folder", "", func(f *fixture) {
			elsewhere := filepath.Join(f.t.TempDir(), "clone")
			f.check(os.Rename(f.dir, elsewhere))
			f.dir = elsewhere
		}},
		{"order of map keys", "", func(f *fixture) { f.yaml(`{A: "1", B: "2"}`, `{B: "2", A: "1"}`) }},
		{"order of directives", "", func(f *fixture) { f.yaml("  cmd: [c]\n  entrypoint: [e]", "  entrypoint: [e]\n  cmd: [c]") }},
		{"YAML formatting and comments", "", func(f *fixture) { f.yaml("  cmd: [c]", "  # a comment\n  cmd:\n    - c") }},
		{"order of imports without dest", "", func(f *fixture) { f.yaml("  - file\n  - dir\n", "  - dir\n  - file\n") }},
		{"an import twice", "", func(f *fixture) { f.yaml("  - file\n", "  - file\n  - file\n") }},
		{"path of an import whose name stays", "", func(f *fixture) {
			f.check(os.Mkdir(f.path("sub"), 0o755))
			f.check(os.Rename(f.path("file"), f.path("sub/file")))
			f.yaml("- file\n", "- sub/file\n")
		}},
		{"hash that is right", "", func(f *fixture) {
			f.yaml("- file\n", "- {path: file, hash: "+shaOf(f.t, f.path("file"))+"}\n")
		}},
		{"a new layer", "", func(f *fixture) { f.yaml("base:\n", "new:\n  from: {type: scratch}\n  build_only: true\nbase:\n") }},
		{"another stackerfile with the same layers", "", func(f *fixture) {
			f.check(os.Rename(f.path("stacker.yaml"), f.path("other.yaml")))
			f.link("other.yaml", "stacker.yaml")
		}},
		{"a file beside the imports", "", func(f *fixture) { f.write("unread", "") }},
		{"substitution with the same value", "", func(f *fixture) { f.yaml("cmd: [c]", "cmd: ['${{X:c}}']") }},
	} {
		t.Run(row.what, func(t *testing.T) {
			t.Setenv("PASSED", "1")
			t.Setenv("http_proxy", "http://proxy.invalid:1")
			f := newFixture(t)
			before := f.build()
			row.edit(f)
			if got := f.missed(before); got != row.want {
				t.Errorf("missed %q, want %q", got, row.want)
			}
			if again := f.build(); len(again.scripts) > 0 {
				t.Errorf("built once more, %d steps ran", len(again.scripts))
			}
		})
	}
}

func shaOf(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("sha256sum", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out[:64])
}

// TestRevert goes back to an earlier state of the project: that is a hit.
func TestRevert(t *testing.T) {
	f := newFixture(t)
	first := f.build()
	f.write("file", "other")
	f.yaml("see everything", "see all")
	other := f.build()
	f.write("file", "content of file")
	f.yaml("see all", "see everything")
	other.manifests = first.manifests
	if got := f.missed(other); got != "" {
		t.Errorf("missed %q", got)
	}
}

// TestNormalizeGit has one checkout with umask 022 and one with 077.
func TestNormalizeGit(t *testing.T) {
	f := newFixture(t)
	f.yaml("base:\n", "config: {normalize: git}\nbase:\n")
	before := f.build()
	f.check(os.Chmod(f.path("file"), 0o600))
	f.check(os.Chmod(f.path("dir"), 0o700))
	f.check(os.Chmod(f.path("over/file"), 0o640))
	f.check(os.Chmod(f.path("copieddir/file"), 0o600))
	if got := f.missed(before); got != "" {
		t.Errorf("umask: missed %q", got)
	}
	f.check(os.Chmod(f.path("file"), 0o700))
	if got := f.missed(before); got != "RLPI" {
		t.Errorf("executable: missed %q, want all", got)
	}
}

// TestUntrackedBind is never found in the cache.
func TestUntrackedBind(t *testing.T) {
	f := newFixture(t)
	f.yaml("{source: bound, dest: /bound, track: true}", "bound -> /bound")
	before := f.build()
	if got := f.missed(before); got != "RL" {
		t.Errorf("missed %q, want RL: it always rebuilds, and comes out the same", got)
	}
	if log := f.build().log; !strings.Contains(log, "UNTRACKED") {
		t.Errorf("nothing says UNTRACKED:\n%s", log)
	}
}

// TestSharedStep builds two stackerfiles whose equal steps run once.
func TestSharedStep(t *testing.T) {
	f := newFixture(t)
	f.build()
	other := newFixture(t)
	other.state = f.state
	if again := other.build(); len(again.scripts) > 0 {
		t.Errorf("%d steps ran in another stackerfile with equal inputs", len(again.scripts))
	}
	other.yaml("see everything", "see other") // one layer name, two stackerfiles
	other.build()
	if again := f.build(); len(again.scripts) > 0 {
		t.Errorf("%d steps ran after another stackerfile built a layer of that name", len(again.scripts))
	}
}

// TestDownloads has a file behind a URL as an import, one as an import with dest,
// and one as a tar base.
func TestDownloads(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"file", "copied", "base.tar"} { // Last-Modified counts seconds
		earlier := time.Now().Add(-time.Minute)
		f.check(os.Chtimes(f.path(name), earlier, earlier))
	}
	files := http.FileServer(http.Dir(f.dir))
	asked := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	f.yaml("  - file\n", "  - "+server.URL+"/file\n")
	f.yaml("- path: copied\n", "- path: "+server.URL+"/copied\n")
	f.yaml("url: base.tar", "url: "+server.URL+"/base.tar")
	before := f.build()
	if got := f.missed(before); got != "" {
		t.Fatalf("nothing changed: missed %q", got)
	}
	for _, row := range []struct {
		what, want string
		edit       func()
	}{
		{"import: a body of equal length", "RLPI", func() { f.write("file", "CONTENT of file") }},
		{"import with dest: a body of equal length", "RLPI", func() { f.write("copied", "CONTENT of copied") }},
		{"tar base", "RLPI", func() { f.tar("other") }},
		{"a server with the same file, newer", "", func() {
			later := time.Now().Add(time.Minute)
			f.check(os.Chtimes(f.path("file"), later, later))
		}},
		{"an import that asks for the right hash", "", func() {
			f.yaml("- "+server.URL+"/file\n", "- {path: "+server.URL+"/file, hash: "+shaOf(t, f.path("file"))+"}\n")
		}},
		{"a server that is gone", "", server.Close},
	} {
		row.edit()
		if got := f.missed(before); got != row.want {
			t.Errorf("%s: missed %q, want %q", row.what, got, row.want)
		}
		before = f.build()
	}
	if n := asked["/base.tar"]; n != 12 {
		t.Errorf("the base was asked for %d times, want once a build while there was a server", n)
	}
}

// TestLost removes or damages what earlier builds left, piece by piece. What can
// be made again of the rest is, without running anything; the images are the same.
func TestLost(t *testing.T) {
	for _, row := range []struct {
		what, want string
		lose       func(f *fixture, oci string)
	}{
		{"a blob of the OCI layout", "", func(f *fixture, oci string) { f.each(oci+"/blobs/sha256/*", os.Remove) }},
		{"the end of each blob of the OCI layout", "", func(f *fixture, oci string) { f.each(oci+"/blobs/sha256/*", f.cut) }},
		{"the OCI layout", "", func(f *fixture, oci string) { f.check(os.RemoveAll(oci)) }},
		{"all packed blobs", "P", func(f *fixture, oci string) {
			f.check(os.RemoveAll(filepath.Join(f.state, "records/pack")))
		}},
		{"all snapshots", "", func(f *fixture, oci string) { f.each(f.state+"/snapshots/*", os.RemoveAll) }},
		{"all snapshots' descriptions", "", func(f *fixture, oci string) { f.each(f.state+"/snapshots/*/snapshot.json", os.Remove) }},
		{"all snapshots and blobs", "R", func(f *fixture, oci string) {
			f.each(f.state+"/snapshots/*", os.RemoveAll)
			f.each(f.state+"/layout/blobs/sha256/*", os.Remove)
		}},
		{"all records", "RLP", func(f *fixture, oci string) { f.check(os.RemoveAll(filepath.Join(f.state, "records"))) }},
		{"the end of each record", "RLP", func(f *fixture, oci string) { f.each(f.state+"/records/*/*/*", f.cut) }},
		{"the manifests of trees", "", func(f *fixture, oci string) { f.check(os.RemoveAll(filepath.Join(f.state, "trees"))) }},
		{"the mirrors of imports", "", func(f *fixture, oci string) { f.check(os.RemoveAll(filepath.Join(f.state, "mirrors"))) }},
		{"the stat index", "", func(f *fixture, oci string) { f.check(os.RemoveAll(filepath.Join(f.state, "statindex"))) }},
		{"what is known of last builds", "", func(f *fixture, oci string) { f.check(os.RemoveAll(filepath.Join(f.state, "latest"))) }},
	} {
		t.Run(row.what, func(t *testing.T) {
			t.Setenv("PASSED", "1")
			f := newFixture(t)
			f.options.OCIDir = filepath.Join(t.TempDir(), "oci")
			before := f.build()
			row.lose(f, f.options.OCIDir)
			if row.want == "P" || row.want == "RLP" {
				before.packs = 0
			}
			if got := f.missed(before); got != row.want {
				t.Errorf("missed %q, want %q", got, row.want)
			}
			inspection, err := Inspect(f.options.OCIDir, "none", layers.Options{})
			f.check(err)
			for _, image := range inspection.Images {
				if string(image.Manifest.Digest) != before.manifests[image.Tag] || len(image.Missing) > 0 {
					t.Errorf("tag %s is %s, was %s; missing %v", image.Tag, image.Manifest.Digest, before.manifests[image.Tag], image.Missing)
				}
			}
			if len(inspection.Images) != len(before.manifests) {
				t.Errorf("%d images, want %d", len(inspection.Images), len(before.manifests))
			}
		})
	}
}

// each calls do with each file that a pattern matches; there is at least one.
func (f *fixture) each(pattern string, do func(string) error) {
	f.t.Helper()
	files, err := filepath.Glob(pattern)
	f.check(err)
	if len(files) == 0 {
		f.t.Fatalf("there is no %s", pattern)
	}
	for _, file := range files {
		f.check(do(file))
	}
}

// cut takes the end of a file away.
func (f *fixture) cut(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	return os.Truncate(file, info.Size()-min(10, info.Size()))
}
