package layers

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func itoa(i int) string { return strconv.Itoa(i) }

func TestBuildEnvironment(t *testing.T) {
	host := []string{"http_proxy=http://p", "NO_PROXY=", "SOURCE_DATE_EPOCH=1", "HOME=/root", "TERM=x", "A1=old", "A1=a=b", "XA1=x", "STACKER_LAYER_NAME=outer", "odd"}
	for _, test := range []struct {
		layer Layer
		want  string // unkeyed ones in brackets
	}{
		{Layer{}, "[NO_PROXY=] STACKER_LAYER_NAME=l [http_proxy=http://p]"},
		{Layer{BuildEnvPassthrough: []string{"A.", "HOM|E"}}, "A1=a=b STACKER_LAYER_NAME=l"},
		{Layer{BuildEnvPassthrough: []string{".*"}, BuildEnv: map[string]string{"HOME": "/h", "http_proxy": "mine", "STACKER_LAYER_NAME": "no"}},
			"A1=a=b HOME=/h [NO_PROXY=] SOURCE_DATE_EPOCH=1 STACKER_LAYER_NAME=l TERM=x XA1=x http_proxy=mine"},
		{Layer{BuildEnvPassthrough: []string{"^$"}}, "STACKER_LAYER_NAME=l"},
		{Layer{BuildEnvPassthrough: []string{"^$"}, BuildEnvFromBase: true, BuildEnv: map[string]string{"A1": "mine"}},
			"A1=mine PATH=/opt/bin:/bin STACKER_LAYER_NAME=l http_proxy=base"},
	} {
		test.layer.Name = "l"
		var got []string
		for _, v := range test.layer.BuildEnvironment(host, []string{"PATH=/opt/bin:/bin", "A1=base", "http_proxy=base"}) {
			s := v.String()
			if !v.Keyed {
				s = "[" + s + "]"
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("got  %s\nwant %s", strings.Join(got, " "), test.want)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for text, want := range map[string]string{
		``:                           `[]`,
		"  a\tb\n":                   `["a" "b"]`,
		`a''b "" 'c d'"e f"`:         `["ab" "" "c de f"]`,
		`a\ b \"c\' \\`:              `["a b" "\"c'" "\\"]`,
		`"a\n\$x\"\\" '\n'`:          `["a\\n\\$x\"\\" "\\n"]`,
		`curl http://h/#top # not a`: `["curl" "http://h/#top" "#" "not" "a"]`,
		`é "ü ö"`:                    `["é" "ü ö"]`,
	} {
		if got, err := splitWords(text); err != nil || fmt.Sprintf("%q", got) != want {
			t.Errorf("%s: got %q, %v, want %s", text, got, err, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	known := []string{"run", "runtime_user", "imports", "import", "environment"}
	for name, want := range map[string]string{
		"rnu": "run", "Imports": "imports", "imprt": "import", "envronment": "environment", "runtimeuser": "runtime_user",
		"zebra": "", "": "", strings.Repeat("r", 1000): "",
	} {
		if want != "" {
			want = ": did you mean " + quote(want) + "?"
		}
		if got := DidYouMean(name, known); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

// TestChanged has each directive tell that it changed, and hashstructure's blind spots
// (a missing number is 0, a missing list is empty) seen.
func TestChanged(t *testing.T) {
	base := "run: a\nimports: [f, {path: g, dest: /g}]\ncmd: x\nlabels: {a: b}"
	for _, test := range []struct{ from, to, want string }{
		{base, base, ""},
		{base, "\n\n" + base, ""},
		{base, strings.Replace(base, "run: a", "run: b", 1), "run"},
		{base, base + "\nbuild_only: true\nos: x\nworking_dir: /", "working_dir os build_only"},
		{"cmd: []", "volumes: []", "cmd"},
		{"imports: {path: f}", "imports: {path: f, uid: 0}", "imports"},
		{"imports: {path: f}", "imports: {path: f, mode: 0}", "imports"},
		{"imports: f", "import: f", "imports import"},
		{"imports: [f, g]", "imports: [g, f]", "imports"},
		{"labels: {a: b}", "annotations: {a: b}", "labels annotations"},
		{"binds: a", "binds: {source: a, track: yes}", "binds"},
		{"overlay_dirs: {source: a}", "overlay_dirs: {source: a, dest: /b}", "overlay_dirs"},
		{"entrypoint: a b", "entrypoint: [a, b]", ""},
		{"full_command: a b", "full_command: ['a b']", "full_command"},
	} {
		// Two folders: where a stackerfile is does not count.
		old := layer(t, test.from)
		got, err := layer(t, test.to).Changed(old)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("from %q to %q: got %q, %v, want %q", test.from, test.to, got, err, test.want)
		}
	}
	old, new := &Layer{From: Base{Type: BaseBuilt, Tag: "a"}}, &Layer{From: Base{Type: BaseBuilt, Tag: "b"}}
	if got, err := new.Changed(old); err != nil || !reflect.DeepEqual(got, []string{"from"}) {
		t.Errorf("got %v, %v", got, err)
	}
}
