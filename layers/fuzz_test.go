package layers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// FuzzLoad parses any text with any value of one substitution. Whatever they are, it
// ends, with layers that are in order or with faults that stand in the file and can be
// shown on a terminal.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"../testdata/stackerfiles/*/*.yaml", "../testdata/stackerfiles/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text), "value")
		}
	}
	f.Add("x: {from: {type: scratch}, run: \"${{A}}\"}", "a\nb: ${{A}}")
	f.Add("a: &a {from: {type: built, tag: b}}\nb: {<<: [*a], imports: [{path: 'stacker://a/x/', mode: 0644}, ${{B:c}}]}", "")
	f.Add("x: &x [*x, *y]\n? [k]\n: !!binary v\n--- \u2028\r\n", "\u0085")
	f.Fuzz(func(t *testing.T, text, value string) {
		l := loader{subs: []substitution{{name: "A", value: value}}, files: map[string]*Stackerfile{}}
		l.parse(&Stackerfile{Name: "s.yaml", Path: "/none/s.yaml", Dir: "/none"}, text)
		g, err := l.graph()
		if err == nil {
			checkOrder(t, g)
			return
		}
		for i, r := range err.Error() {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Fatalf("%q at %d of %q", r, i, err)
			}
		}
		if faults, ok := err.(Errors); ok {
			checkPositions(t, text, faults)
		}
	})
}

func checkOrder(t *testing.T, g *Graph) {
	before := map[*Layer]bool{}
	for _, l := range g.Layers {
		for _, need := range g.Needs(l) {
			if !before[need] {
				t.Fatalf("%s stands before %s, which it needs", l.Name, need.Name)
			}
		}
		before[l] = true
		l.BuildEnvironment([]string{"A=b"}, nil)
		if changed, err := l.Changed(l); err != nil || changed != nil {
			t.Fatalf("%s differs from itself in %v, %v", l.Name, changed, err)
		}
	}
}

func checkPositions(t *testing.T, text string, faults Errors) {
	lines := strings.Split(text, "\n")
	for _, fault := range faults {
		pos := fault.Pos
		if pos.File != "s.yaml" {
			continue // a prerequisite that the text happens to name
		}
		if pos.Line < 1 || pos.Line > len(lines) || pos.Column < 1 || pos.Column > len([]rune(lines[pos.Line-1]))+1 {
			t.Fatalf("%v stands outside of %q", fault, text)
		}
	}
}
