package explain

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// sample is a build in which most that can happen has happened.
func sample() *Report {
	r := &Report{
		Version: Version,
		Build:   Build{Number: 12, Command: "build", Stackerfile: "/web/stacker.yaml", Started: now.Add(-3 * time.Hour), Seconds: 12.5, Result: OK},
		Layers: []Layer{
			{Name: "base", Outcome: Built, Seconds: 10, Reasons: []Reason{{Code: buildcache.Definition, Name: "run", Diff: []string{"- a", "+ b"}}}, Baseline: &Baseline{Kind: BaselineHere, Layer: "base", Stackerfile: "/web/stacker.yaml", Built: now.Add(-26 * time.Hour)}},
			{Name: "web", Outcome: Built, Seconds: 1, Needs: []string{"base"}, Because: []string{"base"}, Reasons: []Reason{{Code: buildcache.BaseChange, Name: "base", By: "base"}}},
			{Name: "site", Outcome: Built, Seconds: 1, Needs: []string{"web"}, Because: []string{"web"}, Reasons: []Reason{{Code: buildcache.BaseChange, Name: "base", By: "web"}}},
			{Name: "docs", Outcome: Built, Seconds: 3, SameResult: true, Hint: "only generated files differ", Reasons: []Reason{{Code: buildcache.Import, Name: "import /stacker/imports/src", Called: "src", Old: "x", New: "y", Changes: manyChanges(9)}}},
			{Name: "book", Outcome: Hit, Seconds: 15, Needs: []string{"docs"}},
			{Name: "last", Outcome: NotReached},
		},
	}
	r.Count()
	return r
}

func manyChanges(n int) (changes []Change) {
	for i := range n {
		changes = append(changes, Change{Op: "+", Path: strconv.Itoa(i)})
	}
	return changes
}

func TestText(t *testing.T) {
	var out bytes.Buffer
	if err := Text(&out, sample(), Options{Now: now}); err != nil {
		t.Fatal(err)
	}
	want := `build 12 of /web/stacker.yaml, 3 hours ago, took 12.5 s
base: built in 10 s
  DEFINITION: "run" changed
    - a
    + b
  so 2 layers rebuilt: web, site
docs: built in 3 s, with the same result
  IMPORT: "src" changed in 9 places
    + src/0
    + src/1
    + src/2
    + src/3
    + src/4
    + src/5
    … and 3 more
  hint: only generated files differ
book: found in the cache, saved 15 s
last: not reached
docs rebuilt with the same result: book reused
1/5 layers cached, saved 15 s
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
	out.Reset()
	if err := Text(&out, sample(), Options{Now: now, All: true}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"    + src/8\n", "web: built in 1 s\n  BASE: layer \"base\" was rebuilt to other content\n", "compared with the last good build of it, built 26 hours ago"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not in\n%s", part, &out)
		}
	}
}

func TestCauses(t *testing.T) {
	if got := sample().Causes(); !slices.Equal(got, []string{"web, site rebuilt because base was"}) {
		t.Errorf("%q", got)
	}
}

// TestJSON holds the names of all fields: they are what machines rely on.
func TestJSON(t *testing.T) {
	r := sample()
	l := &r.Layers[0]
	l.Key, l.Result, l.There, l.Labels, l.Inputs = "k", "r", "hit", l.Reasons, []Input{{Code: buildcache.Env, Name: "n", Value: "v", Redacted: true}}
	l.Reasons = []Reason{{Code: buildcache.Env, Name: "n", Called: "c", Directive: "d", Old: "o", New: "w", Redacted: true, Uncertain: true, By: "b", Note: "t", Diff: []string{"- a"}, More: 1,
		Changes: []Change{{Op: "~", Path: "p", Attributes: []Attribute{{Name: "mode", Old: "0644", New: "0755"}}}}}}
	r.Against, r.Build.Error = "x", "e"
	var out bytes.Buffer
	if err := JSON(&out, r); err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	for _, line := range strings.Split(out.String(), "\n") {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), `":`); ok {
			fields[strings.TrimPrefix(name, `"`)] = true
		}
	}
	want := strings.Fields(`version build number command stackerfile started seconds result error against layers name outcome needs key because
		same_result baseline kind layer built reasons code called directive old new redacted uncertain by note diff changes op path attributes more labels hint inputs
		value there cache hits saved_seconds spent_seconds`)
	for _, name := range want {
		if !fields[name] {
			t.Errorf("there is no field %s", name)
		}
		delete(fields, name)
	}
	if len(fields) > 0 {
		t.Errorf("nobody knows of %v", fields)
	}
}

// TestEncode compares what is put together by hand with encoding/json.
func TestEncode(t *testing.T) {
	hits := sample()
	hits.Layers = []Layer{
		{Name: "a", Outcome: Hit, Seconds: 0.25, Key: "k", Result: "sha256:1"},
		{Name: "b", Outcome: Hit, Needs: []string{"a", "c"}},
	}
	hits.Build.Stackerfile = "/a \"b\"\\\n\u202e\xff/ä"
	hits.Build.Started = time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)
	none := sample()
	none.Layers, none.Build.Number = []Layer{}, 0
	for _, r := range []*Report{hits, none, sample()} {
		raw, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal(raw, &got); err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
		if err := json.Unmarshal(plain, &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%s\nwant\n%s", raw, plain)
		}
	}
}

func TestDiffLines(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{"a\nb\nc\n", "a\nb\nc\n", ""},
		{"a\nb\nc\nd\n", "a\nb\nx\nd\n", "  b|- c|+ x|  d"},
		{"", "a\n", "+ a"},
		{"a\n", "", "- a"},
		{"a\nb\nc\nd\ne\nf\n", "x\na\nb\nc\nd\ne\n", "+ x|  a|  e|- f"},
		{"a\nb", "a\nb\n", ""},
	} {
		if got := strings.Join(DiffLines(test.old, test.new), "|"); got != test.want {
			t.Errorf("%q, %q: %q, want %q", test.old, test.new, got, test.want)
		}
	}
}

func TestHints(t *testing.T) {
	mode := func(path, old, new string) Change {
		return Change{Op: "~", Path: path, Attributes: []Attribute{{"mode", old, new}}}
	}
	tree := func(changes ...Change) Reason { return Reason{Code: buildcache.Import, Changes: changes} }
	for _, test := range []struct {
		what   string
		reason Reason
		want   string // a part of it, or "" for no hint
	}{
		{"umask", tree(mode(".", "0755", "0775"), mode("a", "0644", "0664")), "normalize: git"},
		{"executable", tree(mode("a", "0644", "0755")), ""},
		{"setuid", tree(mode("a", "0755", "4755")), ""},
		{"mode and content", tree(mode("a", "0644", "0664"), Change{Op: "+", Path: "b"}), ""},
		{"git's folder", tree(Change{Op: "~", Path: ".git/index"}, Change{Op: "+", Path: "a/.git/x"}), "put .git/ into .layerbuildignore"},
		{"an editor's file", tree(Change{Op: "+", Path: "src/main.c~"}), "*~"},
		{"a source, too", tree(Change{Op: "+", Path: "x.pyc"}, Change{Op: "~", Path: "x.py"}), ""},
		{"not all is known", Reason{Code: buildcache.Import, Changes: []Change{{Op: "+", Path: "x.pyc"}}, More: 1}, ""},
		{"an overlay dir", Reason{Code: buildcache.Overlay, Changes: []Change{{Op: "+", Path: "x.pyc"}}}, "keep them elsewhere"},
		{"a build number", Reason{Code: buildcache.Env, Name: "env BUILD_NUMBER", Old: "1", New: "2"}, "BUILD_NUMBER looks like"},
		{"a time", Reason{Code: buildcache.Env, Name: "env X", Old: "1763800000", New: "1763800100"}, "X looks like"},
		{"a date", Reason{Code: buildcache.Env, Name: "env X", Old: "2026-01-01T00:00:00Z", New: "2026-01-02T00:00:00Z"}, "X looks like"},
		{"a number", Reason{Code: buildcache.Env, Name: "env JOBS", Old: "1", New: "2"}, ""},
		{"candidate", Reason{Code: buildcache.Env, Name: "env CANDIDATE", Old: "a", New: "b"}, ""},
		{"new", Reason{Code: buildcache.Env, Name: "env BUILD_NUMBER", New: "2"}, ""},
		{"a moved tag", Reason{Code: buildcache.BaseChange, Old: "docker://a:1 sha256:1", New: "docker://a:1 sha256:2"}, "docker://a:1@sha256:2"},
		{"another tag", Reason{Code: buildcache.BaseChange, Old: "docker://a:1 sha256:1", New: "docker://a:2 sha256:2"}, ""},
		{"a layout", Reason{Code: buildcache.BaseChange, Old: "a:1 sha256:1", New: "a:1 sha256:2"}, ""},
	} {
		got := HintFor([]Reason{test.reason})
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
	for _, test := range []struct {
		what    string
		reasons []Reason
		want    string
	}{
		{"normalized already", []Reason{{Code: buildcache.Import, Changes: []Change{mode("a", "0644", "0664")}, normalized: true}}, ""},
		{"one of two", []Reason{tree(mode("a", "0644", "0664")), {Code: buildcache.Definition, Name: "run"}}, ""},
		{"two", []Reason{{Code: buildcache.Env, Name: "env BUILD_ID", Old: "1", New: "2"}, tree(mode("a", "0644", "0664"))}, "commit's; only modes differ"},
		{"two of a kind", []Reason{tree(mode("a", "0644", "0664")), tree(mode("b", "0644", "0664"))}, "what git keeps"},
		{"first in a checkout", []Reason{{Code: buildcache.First}, tree(mode("a", "0644", "0664"))}, "normalize: git"},
		{"pruned, too", []Reason{tree(mode("a", "0644", "0664")), {Code: buildcache.Evicted}}, "normalize: git"},
		{"not cached anyway", []Reason{{Code: buildcache.NoCache}, tree(mode("a", "0644", "0664"))}, ""},
		{"nothing changed", []Reason{{Code: buildcache.Failed}}, ""},
		{"passed through", []Reason{{Code: buildcache.Env, Name: "env BUILD_ID", Old: "1", New: "2", Directive: "build_env_passthrough"}}, "leave it out of `build_env_passthrough`"},
		{"set", []Reason{{Code: buildcache.Env, Name: "env BUILD_ID", Old: "1", New: "2", Directive: "build_env"}}, "leave it out of `build_env`,"},
		{"a secret", []Reason{{Code: buildcache.Env, Name: "env BUILD_ID", Old: "1", New: "2", Redacted: true}}, ""},
	} {
		got := HintFor(test.reasons)
		if test.want == "" && got != "" || !strings.Contains(got, test.want) || strings.Count(got, "only modes") > 1 {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

// unsafe returns the first character that no terminal should get.
func unsafe(text string) string {
	for _, r := range text {
		if r != '\n' && !strconv.IsPrint(r) {
			return strconv.QuoteRune(r)
		}
	}
	return ""
}

// FuzzBundle reads bundles from anywhere: none panics, and whatever is in them
// comes out safe.
func FuzzBundle(f *testing.F) {
	b := Bundle{Format: BundleFormat, Version: Version, Report: *sample(), Trees: map[string][]Entry{"sha256:1": {{Path: []byte("."), Type: "dir"}}}}
	b.Report.Layers[0].Name = "\x1b[31m\u009b\u202e"
	b.Report.Layers[0].Reasons[0].Diff = []string{"\x07", ""}
	b.Steps = []Step{{Layer: "base", Built: "2026-01-01T00:00:00Z"}}
	raw, err := json.Marshal(b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add([]byte(`{"format":"layerbuild explanation","version":2}`))
	f.Add([]byte(strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := ReadBundle(bytes.NewReader(raw))
		if err != nil {
			if bad := unsafe(err.Error()); bad != "" {
				t.Errorf("the error has %s: %q", bad, err)
			}
			return
		}
		for _, all := range []bool{false, true} {
			o := Options{All: all, Now: now}
			var text, markdown, encoded bytes.Buffer
			if err := Text(&text, &b.Report, o); err != nil {
				t.Fatal(err)
			}
			if err := Markdown(&markdown, &b.Report, o); err != nil {
				t.Fatal(err)
			}
			if err := JSON(&encoded, b); err == nil && !json.Valid(encoded.Bytes()) {
				t.Error("the JSON is not valid")
			}
			for _, out := range []string{text.String(), markdown.String(), encoded.String()} {
				if bad := unsafe(out); bad != "" {
					t.Errorf("the output has %s:\n%q", bad, out)
				}
			}
		}
	})
}
