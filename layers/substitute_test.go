package layers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSubstitute(t *testing.T) {
	for _, test := range []struct {
		text, subs string // subs are separated by spaces
		want       string
	}{
		{"${{ONE}} ${{TWO:}} ${{TWO:3}} ${{TWO2:22}} ${{THREE:3}} ${{NOTHING:}}", "ONE=1 TWO=2 BLEH=BLAH", "1 2 2 22 3 "},
		{"${{A}}", "A=1 A=2", "1"},
		{"${{A}}", "A=$1${0}\\", "$1${0}\\"},
		{"${{A}}", "A=${{B}} B=${{C:c}}", "c"},
		{"${{A:${{B}}}}", "B=b", "b"},
		{"${{A:${{B:${{C:c}}-}}.}}", "", "c-."},
		{"${{A:${{B}}}}", "A=a", "a"},
		{"${{A:http://h:1/{x}}", "", "http://h:1/{x"},
		{"${{A:l1\nl2}}", "", "l1\nl2"},
		{"$B ${B} ${AB} $AB ${A//x} $${{A}}", "A=a", "$B ${B} ${AB} $AB ${A//x} $a"},
		{"a}}b{{c}} {}", "", "a}}b{{c}} {}"},
		{"", "A=a", ""},
		{"${{A}}", "", "1: substitution \"A\" has no value: give one with --substitute A=VALUE, or a default with ${{A:default}}"},
		{"x ${{ A }}", "A=1", "3: substitution \" A \" has no value: give one with --substitute  A =VALUE, or a default with ${{ A :default}}"},
		{"${{}}", "", "1: substitution \"\" has no value: give one with --substitute =VALUE, or a default with ${{:default}}"},
		// A value that refers to itself, to an earlier one, or in a circle ends.
		{"${{A}}", "A=${{A}}", "1: substitution \"A\" has no value: give one with --substitute A=VALUE, or a default with ${{A:default}}"},
		{"${{B}}", "A=a B=${{A}}", "1: substitution \"A\" has no value: give one with --substitute A=VALUE, or a default with ${{A:default}}"},
		{"${{A}}", "A=${{B}} B=${{A}}", "1: substitution \"A\" has no value: give one with --substitute A=VALUE, or a default with ${{A:default}}"},
		{"${{A:${{B}}", "", "1: \"${{A\" is not closed: write ${{NAME}} or ${{NAME:default}}; 6: substitution \"B\" has no value: give one with --substitute B=VALUE, or a default with ${{B:default}}"},
		{"${{A:a}b}}", "", "1: \"${{A\" is not closed: write ${{NAME}} or ${{NAME:default}}"},
		{"${{A", "", "1: \"${{A\" is not closed: write ${{NAME}} or ${{NAME:default}}"},
	} {
		t.Run(test.text+" "+test.subs, func(t *testing.T) {
			var subs []substitution
			for _, s := range strings.Fields(test.subs) {
				name, value, _ := strings.Cut(s, "=")
				subs = append(subs, substitution{name: name, value: value})
			}
			var faults []string
			identity := expanded{original: test.text}
			fail := func(offset int, format string, args ...any) {
				_, column := identity.originalPosition(offset)
				faults = append(faults, fmt.Sprintf("%d: ", column)+fmt.Sprintf(format, args...))
			}
			e := expand(test.text, subs, fail)
			got := e.text
			if len(faults) > 0 {
				got = strings.Join(faults, "; ")
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// A variable of the shell may have the name of a substitution, unless it is the only
// thing that could be meant by that.
func TestShellSpelling(t *testing.T) {
	const layer = "from: {type: scratch}"
	for _, test := range []struct{ name, text, subs, want, warning string }{
		{"wrong", "a: {" + layer + ", run: 'é $A ${A} ${A:Z}'}", "A=secret", `1:36: unsupported placeholder "$A", although a substitution for A is given: write "${{A}}" to use it, or "${A-}" for the shell's own variable
1:39: unsupported placeholder "${A}", although a substitution for A is given: write "${{A}}" to use it, or "${A-}" for the shell's own variable
1:44: unsupported placeholder "${A:Z}", although a substitution for A is given: write "${{A:Z}}" to use it, or "${A-}" for the shell's own variable`, ""},
		{"beside a placeholder", "a: {" + layer + `, build_env: {A: "${{A:1}}"}, run: echo $A}`, "A=2", "", ""},
		{"escaped", "a: {" + layer + ", run: 'echo ${A-}'}", "A=2", "", `nothing uses the substitution "A"`},
		{"misspelt", "a: {" + layer + `, cmd: "${{VERSION:1}}"}`, "VERSIO=2", "", `nothing uses the substitution "VERSIO": did you mean "VERSION"?`},
		{"an argument's", "a: {" + layer + `, cmd: "${{ARG_V:1}}"}`, "V=2", "", `nothing uses the substitution "V": did you mean "ARG_V"?`},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "stacker.yaml")
			if err := os.WriteFile(file, []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			g, err := Load(file, Options{Substitutions: strings.Fields(test.subs)})
			got, warning := "", ""
			if err != nil {
				got = strings.ReplaceAll(err.Error(), file+":", "")
			} else if len(g.Warnings) > 0 {
				warning = g.Warnings.Error()
			}
			if got != test.want || warning != test.warning {
				t.Errorf("got  %s, warning %q\nwant %s, warning %q", got, warning, test.want, test.warning)
			}
		})
	}
}

// TestSubstituteBombs has values that double each other: both a text too large and a
// text of nothing must end soon.
func TestSubstituteBombs(t *testing.T) {
	for last, want := range map[string]string{strings.Repeat("x", 99): "larger than 4 MiB", "": "more than 1048576 substitutions"} {
		var subs []substitution
		for i := range 40 {
			subs = append(subs, substitution{name: fmt.Sprint("A", i), value: fmt.Sprintf("${{A%d}}${{A%d}}", i+1, i+1)})
		}
		subs = append(subs, substitution{name: "A40", value: last})
		var faults []string
		expand("${{A0}}", subs, func(_ int, format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) })
		if len(faults) != 1 || !strings.Contains(faults[0], want) {
			t.Errorf("got %q, want %q", faults, want)
		}
	}
	// Nor may placeholders that never close take longer than their number.
	text := strings.Repeat("${{A:", 1<<19)
	count := 0
	expand(text, nil, func(int, string, ...any) { count++ })
	if count != 1<<19 {
		t.Errorf("%d of %d placeholders are said to be open", count, 1<<19)
	}
}

func TestSubstitutionOrder(t *testing.T) {
	write(t, map[string]string{
		"stacker.yaml": "x:\n  from: {type: scratch}\n  environment: {A: \"${{A}}\", B: \"${{B}}\", C: \"${{C}}\", D: \"${{STACKER_OCI_DIR}}\", E: \"<${{E}}>\"}",
		"1.yaml":       "A: one\nB: 1.10\nE:\n",
		"2.yaml":       "A: two\nB: two\nC: true\n",
		"empty.yaml":   "",
	})
	g, err := Load("stacker.yaml", Options{
		Substitutions:   []string{"A=line=1", "A=line 2"},
		SubstituteFiles: []string{"1.yaml", "empty.yaml", "2.yaml"},
		Builtins:        map[string]string{"STACKER_OCI_DIR": "/oci", "C": "builtin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.Layer("x").Environment); got != "map[A:line=1 B:1.10 C:true D:/oci E:<>]" {
		t.Errorf("got %s", got)
	}
	if content := g.Files[0].Content; !strings.Contains(content, `A: "line=1"`) {
		t.Errorf("the content is not substituted: %s", content)
	}
}

func TestBadSubstitutions(t *testing.T) {
	write(t, map[string]string{
		"stacker.yaml": "x: {from: {type: scratch}}",
		"list.yaml":    "- A",
		"nested.yaml":  "A: {B: c}\nA: d",
	})
	for _, test := range []struct {
		o    Options
		want string
	}{
		{Options{Substitutions: []string{"A"}}, `substitution "A" has no value: give A=VALUE`},
		{Options{Substitutions: []string{"=b"}}, `substitution "=b" is not valid: give NAME=VALUE in UTF-8`},
		{Options{Substitutions: []string{"A=\xff"}}, `substitution "A=\xff" is not valid: give NAME=VALUE in UTF-8`},
		{Options{SubstituteFiles: []string{"none.yaml"}}, "read substitute file none.yaml: no such file or directory"},
		{Options{SubstituteFiles: []string{"list.yaml"}}, "list.yaml:1:1: the file must be a mapping, not a list"},
		{Options{SubstituteFiles: []string{"nested.yaml"}}, "nested.yaml:1:4: the value of A must be a text, not a mapping: quote a text that contains \": \"\nnested.yaml:2:1: \"A\" is given twice, first at line 1: remove one"},
	} {
		if _, err := Load("stacker.yaml", test.o); err == nil || err.Error() != test.want {
			t.Errorf("got  %v\nwant %s", err, test.want)
		}
	}
}

// TestOtherFaultsBesideMissingValues has all faults of a file shown at once, but none
// that only follows from a value that is missing.
func TestOtherFaultsBesideMissingValues(t *testing.T) {
	write(t, map[string]string{"s.yaml": "x:\n  from: {type: \"${{TYPE}}\"}\n  rnu: a\ny:\n  from: {type: built, tag: \"${{BASE}}\"}\n"})
	_, err := Load("s.yaml", Options{})
	const want = `s.yaml:2:17: substitution "TYPE" has no value: give one with --substitute TYPE=VALUE, or a default with ${{TYPE:default}}
s.yaml:3:3: layer "x": unknown directive "rnu": did you mean "run"?
s.yaml:5:29: substitution "BASE" has no value: give one with --substitute BASE=VALUE, or a default with ${{BASE:default}}`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// TestPositionsAreTheOriginals writes stackerfiles full of placeholders whose values
// are longer, shorter and of more lines than they, and looks for each fault at the
// place where its author wrote it.
func TestPositionsAreTheOriginals(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringMatching(`[a-zé ]{0,9}([\n\x{85}\x{2028}]      [a-z]{1,5}){0,3}`)
		subs := []string{"B=x${{A}}", "A=" + value.Draw(t, "A"), "C="}
		part := rapid.SampledFrom([]string{"${{A}}", "${{B}}", "${{C}}", "${{D:d é}}", "${{D:${{A}}}}", "é", "text", "\u2028      b", "${{C}}${{C}}"})
		var text strings.Builder
		text.WriteString(rapid.SampledFrom([]string{"", "\n", "# ${{D:comment}}\n"}).Draw(t, "start"))
		text.WriteString("x:\n  from: {type: scratch}\n")
		want := map[string]bool{}
		fault := func(before, key string) {
			text.WriteString(before)
			so := text.String()
			line := strings.Count(so, "\n") + 1
			column := len([]rune(so[strings.LastIndex(so, "\n")+1:])) + 1
			want[fmt.Sprintf("%d:%d %s", line, column, key)] = true
			text.WriteString(key)
		}
		for i := range rapid.IntRange(1, 5).Draw(t, "directives") {
			words := strings.Join(rapid.SliceOfN(part, 0, 4).Draw(t, "words"), " ")
			fault("  ", fmt.Sprintf("zz%d", i))
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				text.WriteString(": \"" + words + "\"\n")
			case 1:
				text.WriteString(": |\n    first " + words + "\n    ${{D:}}\n") // a first line of spaces would set the indentation
			case 2:
				text.WriteString(": y\n  labels: {l" + fmt.Sprint(i) + ": \"" + words + "\"}\n")
			}
		}
		path := dir + "/s.yaml"
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, Options{Substitutions: subs})
		faults, ok := err.(Errors)
		if !ok {
			t.Fatalf("got %v of\n%s", err, text.String())
		}
		found := 0
		for _, f := range faults {
			_, key, _ := strings.Cut(f.Msg, `unknown directive "`)
			key, _, _ = strings.Cut(key, `"`)
			if key == "" {
				continue // labels given twice
			}
			found++
			if at := fmt.Sprintf("%d:%d %s", f.Pos.Line, f.Pos.Column, key); !want[at] {
				t.Fatalf("%v, but the faults are %v of\n%s", f, want, text.String())
			}
		}
		if found != len(want) {
			t.Fatalf("%d of %d found: %v", found, len(want), err)
		}
	})
}
