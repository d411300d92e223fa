package imports

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
)

func TestGlob(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a/one.c": "", "a/two.c": "", "a/two.h": "", "b/three.c": "", "b/deep/four.c": "", "x[1]": "", "left/out.c": ""})
	ok(t, os.Symlink("a", filepath.Join(dir, "link")))
	ok(t, os.Symlink("/b/deep", filepath.Join(dir, "absolute")))
	ok(t, os.Symlink("../../../..", filepath.Join(dir, "up")))
	for pattern, want := range map[string][]Match{
		"a/*.c":        {{"a/one.c", false}, {"a/two.c", false}},
		"?/t*.[ch]":    {{"a/two.c", false}, {"a/two.h", false}, {"b/three.c", false}},
		"*/deep":       {{"b/deep", true}},
		"lin*":         {{"link", true}},
		"link/one.*":   {{"link/one.c", false}},
		"absolute/*":   {{"absolute/four.c", false}},
		"up/a/one.c":   {{"up/a/one.c", false}},
		"./a/../b/th*": {{"b/three.c", false}},
		"x\\[1]":       {{"x[1]", false}},
		"none*":        nil,
		"none/*":       nil,
		"left/*":       nil,
		".":            {{".", true}},
	} {
		got, err := Glob(Source{Within: dir, Filters: []Filter{{Exclude: []string{"left"}}}}, pattern)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", pattern, got, err, want)
		}
	}
	for _, pattern := range []string{"none", "left/out.c", "a/["} {
		if got, err := Glob(Source{Within: dir, Filters: []Filter{{Exclude: []string{"left"}}}}, pattern); err == nil {
			t.Errorf("%s: %v", pattern, got)
		}
	}
}

// What a filter leaves of a tree is what Docker's own matcher leaves, and the folders on
// the way to that.
func FuzzFilter(f *testing.F) {
	f.Add("*\n!a\n!b/deep", "")
	f.Add("**/*.c\n!b/deep/four.c", "b\n")
	f.Add("", "*/deep")
	paths := []string{"a/one.c", "a/two.h", "b/three.c", "b/deep/four.c", "b/deep/five", "top"}
	dir := f.TempDir()
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), nil, 0o644); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, exclude, include string) {
		filter := Filter{Exclude: slices.Collect(lines(exclude))}
		if include != "" {
			filter.Include = slices.Collect(lines(include))
		}
		out, err := patternmatcher.New(filter.Exclude)
		if err != nil {
			return
		}
		in, err := patternmatcher.New(filter.Include)
		if err != nil {
			return
		}
		s := open(t, Options{})
		tree, err := s.Digest(t.Context(), Source{Path: dir, Content: true, Filters: []Filter{filter}})
		if err != nil {
			return
		}
		entries, err := s.Entries(tree.Digest)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			excluded, err := out.MatchesOrParentMatches(p)
			ok(t, err)
			included, err := in.MatchesOrParentMatches(p)
			ok(t, err)
			want := !excluded && (included || include == "")
			if got := slices.ContainsFunc(entries, func(e Entry) bool { return e.Path == p }); got != want {
				t.Errorf("%s is there: %t, want %t", p, got, want)
			}
		}
	})
}

func lines(text string) func(yield func(string) bool) {
	return strings.SplitSeq(text, "\n")
}
