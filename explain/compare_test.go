package explain

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
)

// inputs reads inputs that are written one a line: CODE NAME = VALUE. "@x" is a tree
// with one file that has the content x, and "@x+k=v" one that is copied like that.
func inputs(text string) (in buildcache.Inputs) {
	for line := range strings.Lines(text) {
		code, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		name, value, ok := strings.Cut(rest, " = ")
		if !ok {
			continue
		}
		if tree, isTree := strings.CutPrefix(value, "@"); isTree {
			tree, how, _ := strings.Cut(tree, "+")
			value = string(digest.FromString(tree))
			if strings.HasPrefix(name, "copy") {
				value = fmt.Sprintf(`{"Tree":%q,"Name":"n","Content":false,"Mode":null,"UID":null,"GID":null}`, value)
				if key, to, ok := strings.Cut(how, "="); ok {
					value = strings.NewReplacer(`"`+key+`":null`, `"`+key+`":`+to, `"`+key+`":false`, `"`+key+`":`+to, `"`+key+`":"n"`, `"`+key+`":"`+to+`"`).Replace(value)
				}
			}
		}
		in.Add(buildcache.Code(code), name, value)
	}
	return in
}

// trees knows the tree of each letter: a folder with one file, and the letter in it.
func trees(d digest.Digest) ([]imports.Entry, error) {
	for _, letter := range "abcdefgxyz" {
		if d == digest.FromString(string(letter)) {
			return []imports.Entry{
				{Path: ".", Type: imports.Dir, Mode: 0o755},
				{Path: "file", Type: imports.File, Mode: 0o644, Size: int64(letter), Sum: [32]byte{byte(letter)}},
			}, nil
		}
	}
	return nil, fs.ErrNotExist
}

// TestCompare has a row for each way in which the inputs of a step change, alone and
// together.
func TestCompare(t *testing.T) {
	for _, test := range []struct{ what, old, new, want string }{
		{"nothing", "IMPORT copy 1 /a = @a\nENV env X = 1", "ENV env X = 1\nIMPORT copy 1 /a = @a", ""},
		{"put first",
			"IMPORT copy 1 /a = @a\nIMPORT copy 2 /b = @b\nIMPORT copy 3 /c = @c",
			"IMPORT copy 1 /n = @x\nIMPORT copy 2 /a = @a\nIMPORT copy 3 /b = @b\nIMPORT copy 4 /c = @c",
			`IMPORT: "import at /n" is new`},
		{"taken away",
			"IMPORT copy 1 /a = @a\nIMPORT copy 2 /b = @b\nIMPORT copy 3 /c = @c", "IMPORT copy 1 /b = @b\nIMPORT copy 2 /c = @c",
			`IMPORT: "import at /a" is gone`},
		{"swapped",
			"IMPORT copy 1 /a = @a\nIMPORT copy 2 /b = @b", "IMPORT copy 1 /b = @b\nIMPORT copy 2 /a = @a",
			`IMPORT: the order changed: "/a, /b" → "/b, /a"`},
		{"swapped, and one changed",
			"IMPORT copy 1 /a = @a\nIMPORT copy 2 /b = @b\nIMPORT copy 3 /c = @c", "IMPORT copy 1 /b = @b\nIMPORT copy 2 /a = @x\nIMPORT copy 3 /c = @c",
			`IMPORT: "import at /a" changed: /a/file: content (97 → 120 bytes)|IMPORT: the order changed: "/a, /b, /c" → "/b, /a, /c"`},
		{"changed, and one put between",
			"IMPORT copy 1 /a = @a\nIMPORT copy 2 /b = @b", "IMPORT copy 1 /a = @x\nIMPORT copy 2 /n = @c\nIMPORT copy 3 /b = @b",
			`IMPORT: "import at /a" changed: /a/file: content (97 → 120 bytes)|IMPORT: "import at /n" is new`},
		{"renamed", "IMPORT import /stacker/imports/a = @a", "IMPORT import /stacker/imports/b = @a",
			`IMPORT: "import /stacker/imports/b" changed: /stacker/imports/b: moved from /stacker/imports/a to /stacker/imports/b`},
		{"renamed and edited", "IMPORT import /stacker/imports/a = @a", "IMPORT import /stacker/imports/b = @x",
			`IMPORT: "import /stacker/imports/b" is new|IMPORT: "import /stacker/imports/a" is gone`},
		{"renamed, and its neighbour edited",
			"IMPORT import /i/a = @a\nIMPORT import /i/c = @c", "IMPORT import /i/b = @a\nIMPORT import /i/c = @x",
			`IMPORT: "import /i/b" changed: /i/b: moved from /i/a to /i/b|IMPORT: "import /i/c" changed: /i/c/file: content (99 → 120 bytes)`},
		{"two names with one content", "IMPORT import /i/a = @a", "IMPORT import /i/a = @a\nIMPORT import /i/b = @a", `IMPORT: "import /i/b" is new`},
		{"contents swapped", "IMPORT import /i/a = @a\nIMPORT import /i/b = @b", "IMPORT import /i/a = @b\nIMPORT import /i/b = @a",
			`IMPORT: "import /i/a" changed: /i/a/file: content (97 → 98 bytes)|IMPORT: "import /i/b" changed: /i/b/file: content (98 → 97 bytes)`},
		{"copied from now on", "IMPORT import /stacker/imports/a = @a", "IMPORT copy 1 /a = @a",
			`IMPORT: "import at /a" changed: /a: moved from /stacker/imports/a to /a`},
		{"twice at one place", "IMPORT copy 1 /a = @a\nIMPORT copy 2 /a = @b", "IMPORT copy 1 /a = @b", `IMPORT: "import at /a" is gone`},
		{"the content of a folder", "IMPORT import 1's content in /i = @a", "IMPORT import /i/n = @b\nIMPORT import 2's content in /i = @a", `IMPORT: "import /i/n" is new`},
		{"an owner", "IMPORT copy 1 /a = @a", "IMPORT copy 1 /a = @a+UID=1000", `IMPORT: "import at /a" changed: /a: uid (none) → 1000`},
		{"a mode", "IMPORT copy 1 /a = @a+Mode=420", "IMPORT copy 1 /a = @a+Mode=8389101", `IMPORT: "import at /a" changed: /a: mode 0644 → 4755`},
		{"an import with a mountpoint", "IMPORT import at /m = @a", "IMPORT import at /m = @x", `IMPORT: "import /m" changed: /m/file: content (97 → 120 bytes)`},
		{"a slash", "IMPORT copy 1 /a = @a", "IMPORT copy 1 /a = @a+Content=true", `IMPORT: "import at /a" changed: /a: copied is what is in the folder, and no longer the folder`},
		{"an overlay dir", "OVERLAY overlay 0 /o = @a\nOVERLAY overlay 1 /p = @b", "OVERLAY overlay 0 /p = @b\nOVERLAY overlay 1 /o = @x",
			`OVERLAY: "overlay dir at /o" changed: /o/file: content (97 → 120 bytes)|OVERLAY: the order changed: "/o, /p" → "/p, /o"`},
		{"a bind", "BIND bind /b = @a", "BIND bind /b = @x", `BIND: "/b" changed: /b/file: content (97 → 120 bytes)`},
		{"an unknown tree", "IMPORT import /i/a = @a", "IMPORT import /i/a = @unknown", `IMPORT: "import /i/a" changed`},
		{"variables", "ENV env A = 1\nENV env B = 2", "ENV env B = 3\nENV env C = ", `ENV: "B" changed: 2 → 3|ENV: "C" is new|ENV: "A" is gone`},
		{"a text and all else", "DEFINITION run = a\nPLATFORM platform = linux/amd64\nIMPORT import /i/a = @a", "DEFINITION run = b\nPLATFORM platform = linux/arm64\nIMPORT import /i/a = @x",
			`DEFINITION: "run" changed: a → b|IMPORT: "import /i/a" changed: /i/a/file: content (97 → 120 bytes)|PLATFORM: "platform" changed: linux/amd64 → linux/arm64`},
	} {
		var got []string
		for _, r := range Compare(Side{Inputs: inputs(test.old), Tree: trees}, Side{Inputs: inputs(test.new), Tree: trees}, 0) {
			got = append(got, r.Head())
		}
		if strings.Join(got, "|") != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.what, strings.Join(got, "\n     "), strings.ReplaceAll(test.want, "|", "\n     "))
		}
	}
}

// TestCompareNames: what the stackerfile calls an input is what people read.
func TestCompareNames(t *testing.T) {
	was := Side{Inputs: inputs("BASE base = sha256:1\nIMPORT copy 1 /srv = @a\nENV env X = 1"), Origin: buildcache.Origin{Base: "docker://a:1", Manifest: "sha256:11"}, Tree: trees}
	is := Side{Inputs: inputs("BASE base = sha256:2\nIMPORT copy 1 /srv = @x\nENV env X = 2"), Origin: buildcache.Origin{Base: "docker://a:1", Manifest: "sha256:22"}, Tree: trees,
		Said: map[string]Said{"copy 1 /srv": {Source: "src/"}, "env X": {Directive: "build_env"}}}
	reasons := Compare(was, is, 0)
	want := []string{
		`BASE: "base" changed: docker://a:1 was 11, is 22`,
		`ENV: "X" changed: 1 → 2`,
		`IMPORT: "src/ at /srv" changed: src/file: content (97 → 120 bytes)`,
	}
	for i, r := range reasons {
		if r.Head() != want[i] {
			t.Errorf("got %s, want %s", r.Head(), want[i])
		}
	}
	if reasons[1].Directive != "build_env" {
		t.Error("nobody knows how the variable came in")
	}
	is.Said["base"], is.Said["copy 1 /srv"] = Said{By: "below"}, Said{Source: "stacker://below/srv", By: "below"}
	reasons = Compare(was, is, 0)
	if got := reasons[0].Head(); got != `BASE: layer "below" was rebuilt to other content` {
		t.Error(got)
	}
	if got := reasons[2].Head(); got != `IMPORT: "stacker://below/srv at /srv" changed: layer "below" was rebuilt to other content` {
		t.Error(got)
	}
}

// TestCompareLimit: a reason keeps so many changes, and counts the others.
func TestCompareLimit(t *testing.T) {
	lines := strings.Repeat("x\n", 100)
	was, is := Side{Inputs: buildcache.Inputs{{Code: buildcache.Definition, Name: "run", Value: lines}}}, Side{Inputs: buildcache.Inputs{{Code: buildcache.Definition, Name: "run", Value: strings.ReplaceAll(lines, "x", "y")}}}
	r := Compare(was, is, 50)[0]
	if len(r.Diff) != 50 || r.More != 150 || r.Old+r.New != "" {
		t.Errorf("%d lines and %d more", len(r.Diff), r.More)
	}
}

// TestMiss has a row for each state that a miss can be in: nothing is told that is no cause.
func TestMiss(t *testing.T) {
	changed := []Reason{{Code: buildcache.Import}}
	evicted := &Reason{Code: buildcache.Evicted}
	for _, test := range []struct {
		what string
		miss Miss
		want []buildcache.Code
	}{
		{"a new layer", Miss{First: true}, []buildcache.Code{buildcache.First}},
		{"a new layer whose first build failed", Miss{First: true, Failed: true}, []buildcache.Code{buildcache.First, buildcache.Failed}},
		{"another checkout", Miss{First: true, Changed: changed}, []buildcache.Code{buildcache.First, buildcache.Import}},
		{"an edit", Miss{Changed: changed}, []buildcache.Code{buildcache.Import}},
		{"an edit to what was pruned", Miss{Changed: changed, Gone: evicted}, []buildcache.Code{buildcache.Import, buildcache.Evicted}},
		{"an edit that failed", Miss{Changed: changed, Failed: true}, []buildcache.Code{buildcache.Import, buildcache.Failed}},
		{"pruned", Miss{Gone: evicted}, []buildcache.Code{buildcache.Evicted}},
		{"asked for", Miss{NoCache: true}, []buildcache.Code{buildcache.NoCache}},
		{"all that the user made", Miss{NoCache: true, Untracked: []string{"b"}, Changed: changed}, []buildcache.Code{buildcache.NoCache, buildcache.Untracked, buildcache.Import}},
		{"an upgrade", Miss{Former: true}, []buildcache.Code{buildcache.Format}},
	} {
		var got []buildcache.Code
		for _, r := range test.miss.Reasons() {
			got = append(got, r.Code)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}

func TestNearest(t *testing.T) {
	record := func(name string, values ...string) *buildcache.Record {
		r := &buildcache.Record{Key: buildcache.Key(name), Inputs: buildcache.Inputs{{Code: buildcache.Format, Name: "compatibility", Value: "1"}}}
		for i, value := range values {
			r.Inputs.Add(buildcache.Import, fmt.Sprint("i", i), value)
		}
		return r
	}
	records := []*buildcache.Record{record("newest", "a"), record("newer", "a", "b", "x", "y"), record("older", "a", "b", "x", "z"), record("far", "q")}
	for _, test := range []struct{ want, values string }{
		{"newest", "a"}, {"newer", "abx"}, {"newer", "abpq"}, {"older", "abxz"}, {"", "amno"}, {"", "m"},
	} {
		got := ""
		if r := Nearest(records, record("", strings.Split(test.values, "")...).Inputs); r != nil {
			got = string(r.Key)
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.values, got, test.want)
		}
	}
	if Nearest(nil, nil) != nil {
		t.Error("there is a record in nothing")
	}
}
