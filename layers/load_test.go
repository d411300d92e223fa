package layers

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const scratch = "{from: {type: scratch}}"

func names(layers []*Layer) string {
	var all []string
	for _, l := range layers {
		all = append(all, l.Name)
	}
	return strings.Join(all, " ")
}

func TestPrerequisites(t *testing.T) {
	dir := write(t, map[string]string{
		"main/s.yaml": "config: {prerequisites: [../b/s.yaml, ../a.yaml]}\nm: {from: {type: built, tag: a2}, imports: f}\n",
		"b/s.yaml":    "config: {prerequisites: " + "../a.yaml}\nb: {from: {type: built, tag: a}}",
		"a.yaml":      "a: " + scratch + "\na2: {from: {type: built, tag: a}}",
	})
	g, err := Load("main/s.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(g.Layers); got != "a a2 b m" {
		t.Errorf("the order is %s", got)
	}
	var files []string
	for _, f := range g.Files {
		files = append(files, f.Name+"="+strings.TrimPrefix(f.Path, dir))
	}
	if got := strings.Join(files, " "); got != "a.yaml=/a.yaml b/s.yaml=/b/s.yaml main/s.yaml=/main/s.yaml" {
		t.Errorf("the files are %s", got)
	}
	if got := g.Layer("m").Imports[0].Source.Path; got != dir+"/main/f" {
		t.Errorf("an import's path starts from %s", got)
	}
	if got := g.Files[2].Prerequisites; len(got) != 2 || got[0] != dir+"/b/s.yaml" {
		t.Errorf("prerequisites are %v", got)
	}
	// The same, named by its absolute path.
	if g, err = Load(filepath.Join(dir, "main/s.yaml"), Options{}); err != nil || g.Files[0].Name != dir+"/a.yaml" {
		t.Errorf("got %v, %v", g, err)
	}
}

func TestFaultsOfSeveralFiles(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"cycle", map[string]string{
			"s.yaml":   "config: {prerequisites: [b/b.yaml]}\nx: " + scratch,
			"b/b.yaml": "config: {prerequisites: [../c.yaml]}",
			"c.yaml":   "config:\n  prerequisites:\n  - b/b.yaml",
		}, "c.yaml:3:5: prerequisites form a cycle, b/b.yaml → c.yaml → b/b.yaml: remove one of them"},
		{"of itself", map[string]string{"s.yaml": "config: {prerequisites: ./s.yaml}\nx: " + scratch},
			"s.yaml:1:25: prerequisites form a cycle, s.yaml → s.yaml: remove one of them"},
		{"missing", map[string]string{"s.yaml": "config: {prerequisites: [no.yaml, d/no.yaml, ., 'ftp://h/s', '']}\nx: {from: {type: built, tag: there}}", "d/x": ""},
			`s.yaml:1:26: read stackerfile no.yaml: no such file or directory
s.yaml:1:35: read stackerfile d/no.yaml: no such file or directory
s.yaml:1:46: read stackerfile .: it is a folder: name a regular file
s.yaml:1:49: prerequisite "ftp://h/s" is no path, and no http or https URL
s.yaml:1:62: a prerequisite cannot be empty`},
		{"duplicate", map[string]string{"s.yaml": "config: {prerequisites: [a.yaml]}\nx: " + scratch, "a.yaml": "\nx: " + scratch},
			`s.yaml:2:1: layer "x": duplicate layer name: the other one is at a.yaml:2:1, and says the same: remove one`},
		{"duplicate that differs", map[string]string{"s.yaml": "config: {prerequisites: [a.yaml]}\nx: {from: {type: scratch}, run: a, cmd: b}", "a.yaml": "\nx: " + scratch},
			`s.yaml:2:1: layer "x": duplicate layer name: the other one is at a.yaml:2:1, with other run, cmd: rename one`},
		{"not visible", map[string]string{
			"s.yaml": "config: {prerequisites: [a.yaml, b.yaml]}\nx: " + scratch,
			"a.yaml": "a: {from: {type: built, tag: b}}\naa: {from: {type: built, tag: xx}}", "b.yaml": "b: " + scratch,
		}, `a.yaml:1:30: layer "a": layer "b" is in b.yaml: add that file to config: prerequisites
a.yaml:2:31: layer "aa": there is no layer "xx": declare it here or in a prerequisite`},
		{"all at once", map[string]string{
			"s.yaml": "config: {prerequisites: [a.yaml, b.yaml]}\nx: {from: {type: bulit}}",
			"a.yaml": "a: {rn: b}", "b.yaml": "b: [",
		}, `a.yaml:1:1: layer "a": from is missing: say what the layer starts from, such as from: {type: scratch}
a.yaml:1:5: layer "a": unknown directive "rn": did you mean "run"?
b.yaml:1:1: the YAML is not valid: did not find expected node content
s.yaml:2:18: layer "x": unknown base type "bulit": did you mean "built"?`},
		{"escapes in names", map[string]string{"s.yaml": `config: {prerequisites: ["\e[31m.yaml"]}`, "\x1b[31m.yaml": "[]"},
			`"\x1b[31m.yaml":1:1: a stackerfile must be a mapping, not a list`},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, test.files)
			if _, err := Load("s.yaml", Options{}); err == nil || err.Error() != test.want {
				t.Errorf("got\n%v\nwant\n%s", err, test.want)
			}
		})
	}
}

func TestGraph(t *testing.T) {
	write(t, map[string]string{"s.yaml": `
last: {from: {type: tar, url: stacker://tarball/f.tar}, imports: [stacker://one/x, stacker://two/y, stacker://one/z]}
alone: {from: {type: scratch}}
one: {from: {type: built, tag: base}}
two: {from: {type: built, tag: base}}
base: {from: {type: scratch}}
tarball: {from: {type: scratch}}
`})
	g, err := Load("s.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(g.Layers); got != "tarball base one two last alone" {
		t.Errorf("the order is %s", got)
	}
	if got := names(g.Needs(g.Layer("last"))); got != "tarball one two" {
		t.Errorf("last needs %s", got)
	}
	if got := names(g.Needs(g.Layer("alone"))); got != "" {
		t.Errorf("alone needs %s", got)
	}

	sub, err := g.Only("two", "alone")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(sub.Layers); got != "base two alone" {
		t.Errorf("two and alone are %s", got)
	}
	if sub.Layer("one") != nil || names(sub.Needs(sub.Layer("two"))) != "base" || len(sub.Files) != 1 {
		t.Errorf("the sub-graph is %+v", sub)
	}
	if all, err := g.Only(); err != nil || all != g {
		t.Errorf("no name gives %v, %v", all, err)
	}
	const want = "there is no layer \"twoo\": did you mean \"two\"?\nthere is no layer \"nothing\": the layers are tarball, base, one, two, last, alone"
	if _, err = g.Only("twoo", "one", "nothing"); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// TestLongChain has a graph deeper than any that is written by hand.
func TestLongChain(t *testing.T) {
	const size = 20000
	var text strings.Builder
	for i := range size {
		text.WriteString("l" + itoa(i) + ": {from: {type: built, tag: l" + itoa(i+1) + "}}\n")
	}
	text.WriteString("l" + itoa(size) + ": " + scratch)
	write(t, map[string]string{"s.yaml": text.String()})
	g, err := Load("s.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if g.Layers[0].Name != "l"+itoa(size) || g.Layers[size].Name != "l0" {
		t.Error("the order is wrong")
	}
}

func TestFilesThatAreNone(t *testing.T) {
	dir := write(t, map[string]string{"plain": ""})
	if err := syscall.Mkfifo("fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.Symlink("loop", "loop"); err != nil {
		t.Fatal(err)
	}
	large, err := os.Create("large")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(large.Truncate(MaxSize+1), large.Close()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"none":      "no such file or directory",
		"plain/a":   "not a directory",
		".":         "it is a folder: name a regular file",
		"fifo":      "it is a fifo: name a regular file",
		"socket":    "it is a socket: name a regular file",
		"/dev/null": "it is a device: name a regular file",
		"loop":      "too many levels of symbolic links",
		"large":     "it is larger than 4 MiB",
	} {
		want = "read stackerfile " + name + ": " + want
		if _, err := Load(name, Options{}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := Load("none", Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not ErrNotExist", err)
	}
	if _, err := Load("plain", Options{SubstituteFiles: []string{"fifo"}}); err == nil || err.Error() != "read substitute file fifo: it is a fifo: name a regular file" {
		t.Errorf("got %v", err)
	}
}

func TestRequireHash(t *testing.T) {
	write(t, map[string]string{"s.yaml": "x:\n  from: {type: scratch}\n  imports: [http://h/f, local, {path: https://h/g, hash: " + strings.Repeat("0", 64) + "}]\n  import: https://h/h"})
	if _, err := Load("s.yaml", Options{}); err != nil {
		t.Error(err)
	}
	const want = `s.yaml:3:13: layer "x": import "http://h/f" needs a hash: give its sha256 as hash
s.yaml:4:11: layer "x": import "https://h/h" needs a hash: give its sha256 as hash`
	if _, err := Load("s.yaml", Options{RequireHash: true}); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// TestBombs has files that a parser could choke on. Each must be answered at once.
func TestBombs(t *testing.T) {
	laughs := "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n"
	for i := range 12 {
		a := "*a" + itoa(i)
		laughs += "a" + itoa(i+1) + ": &a" + itoa(i+1) + " [" + strings.Repeat(a+", ", 9) + a + "]\n"
	}
	wide := "a: &a " + strings.Repeat("x", 1<<20) + "\nb:\n  from: {type: scratch}\n  run: [" + strings.Repeat("*a, ", 1<<16) + "*a]\n"
	merges := "m0: &m0 {a: b, from: {type: scratch}}\n"
	for i := range 30 {
		m := "*m" + itoa(i)
		merges += "m" + itoa(i+1) + ": &m" + itoa(i+1) + " {<<: [" + m + ", " + m + "], from: {type: scratch}}\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"billion laughs": {laughs, "YAML aliases up to *a4 expand to more than 4 MiB: use fewer"},
		"wide":           {wide, "YAML aliases up to *a expand to more than 4 MiB: use fewer"},
		"merges":         {merges, "YAML aliases up to *m"},
		"deep":           {"x: " + strings.Repeat("[", 1<<20), "the YAML is not valid: exceeded max depth"},
		"many faults":    {"x: {" + strings.Repeat("a, b, ", 1<<17) + "}", "there are more than 1000 errors: mend these first"},
		"long line":      {"x: {from: {type: scratch}, imports: [" + strings.Repeat("f, ", 1<<18) + "-]}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, map[string]string{"s.yaml": test.text})
			_, err := Load("s.yaml", Options{})
			if err == nil && test.want == "" {
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || test.want == "" {
				t.Errorf("got %.300v", err)
			}
		})
	}
}

// TestBindOrder has a layer that reads what an earlier one's run may write.
func TestBindOrder(t *testing.T) {
	dir := t.TempDir()
	text := `
maker:
  from: {type: scratch}
  binds: [out -> /out, {source: watched, track: true, dest: /w}]
other:
  from: {type: scratch}
  imports: [outside, watched/file]
reader:
  from: {type: scratch}
  overlay_dirs: [{source: out/bin, dest: /bin}]
`
	path := filepath.Join(dir, "stacker.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	graph, err := Load(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if needs := graph.Needs(graph.Layer("reader")); len(needs) != 1 || needs[0].Name != "maker" {
		t.Errorf("reader needs %v, want maker", needs)
	}
	if needs := graph.Needs(graph.Layer("other")); len(needs) != 0 {
		t.Errorf("other needs %v, want none", needs)
	}
}
