package imports

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// walked lists the files of a source.
func walked(t *testing.T, s *Store, src Source) []string {
	t.Helper()
	tree, err := s.Digest(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := s.Entries(tree.Digest)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if e.Type != Dir {
			files = append(files, e.Path)
		}
	}
	slices.Sort(files)
	return files
}

// asGit lists the files of a folder that git does not ignore.
func asGit(t *testing.T, gitDir, dir string, patterns []string) []string {
	t.Helper()
	args := []string{"--git-dir", gitDir, "--work-tree", dir, "ls-files", "-z", "--others", "--exclude-per-directory=" + IgnoreFile}
	for _, pattern := range patterns {
		args = append(args, "-x", pattern)
	}
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for file := range strings.SplitSeq(string(out), "\x00") {
		if file != "" && filepath.Base(file) != IgnoreFile {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	return files
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ignoreCases are patterns in which implementations differ from git.
var ignoreCases = []string{
	"a", "a/", "/a", "a/b", "/a/b/", "**", "**/", "/**", "a/**", "**/a", "**/a/b", "a/**/b", "a**b", "a/**b", "a**/b", "***/a",
	"*", "/*", "*/", "*.c", "a*b*c", "?", "a?", "[ab]", "[!a]", "[^a]", "[a-c]", "[]a]", "[!]a]", "[a-]", "[[:alpha:]]", "[[:digit:]x]",
	"[[:nope:]]", "[", "[a", "[[:alpha:]", "\\a", "\\*", "\\!a", "\\#a", "!a", "!", "#a", "a\\", "a ", "a\\ ", "a\\  ", " a", "a\t", "//", "/", "a//b", "",
	"*\n!a", "a\n!a/b", "a/*\n!a/b", "*.c\n!a", "/*\n!/a\n/a/*\n!/a/b", "*\n!*/\n!b", "a\r", "a\r\nb", "\xef\xbb\xbfa", "ä", "?\n?ä", "[ä]", "a\\/b", "**\\/b", "[\\]]", "[a\\-c]",
}

// TestIgnoreAsGit walks trees as git lists them: with rules that are known to be
// hard, and with random ones.
func TestIgnoreAsGit(t *testing.T) {
	files := []string{
		"a", "b", "c", "ab", "abc", "aab", "x.c", "d/a", "d/b", "d/a.c", "d/a b", "d/e/f/g", "d/e/a", "d/e/b/x.c", "d/ab/b", "d/axb", "d/ax/b",
		"e/a/a", "e/a/b", "e/a/c/b", "e/b/a/b", "e/x/a/b", "e/x/a/a/b", "e/x/y/a/b", "e/a/x/b", "e/a/x/y/b", "e/ab/c", "e/b/x.c",
		"a b", "a ", "!a", "#a", "*", "\\", "[", "]", "-", "1", "ä", "aä", " a", "a\t", "a\r",
	}
	dir, gitDir, s := t.TempDir(), t.TempDir(), open(t, Options{})
	if out, err := exec.Command("git", "init", "-q", "--bare", gitDir).CombinedOutput(); err != nil {
		t.Fatal(string(out), err)
	}
	for _, file := range files {
		writeFile(t, filepath.Join(dir, file), "")
	}
	check := func(t *testing.T, rules map[string]string, patterns []string) {
		t.Helper()
		for folder, text := range rules {
			writeFile(t, filepath.Join(dir, folder, IgnoreFile), text)
			defer os.Remove(filepath.Join(dir, folder, IgnoreFile))
		}
		want := asGit(t, gitDir, dir, patterns)
		src := Source{Path: dir, Content: true, IgnoreFiles: true, Ignore: patterns}
		if got := walked(t, s, src); !slices.Equal(got, want) {
			t.Errorf("rules %q, patterns %q:\n got %q\nwant %q", rules, patterns, got, want)
		}
		for _, file := range files { // what explains must agree with what walks
			r, err := Ignored(src, file)
			if err != nil {
				t.Fatal(err)
			}
			if ignored := r != nil && r.Ignores(); ignored == slices.Contains(want, file) {
				t.Errorf("rules %q, patterns %q: Ignored(%q) is %v", rules, patterns, file, r)
			}
		}
	}
	for _, text := range ignoreCases {
		check(t, map[string]string{".": text}, nil)
		check(t, map[string]string{"d": text, "e": text, ".": "*.c\n!d/a.c"}, nil)
		if !strings.ContainsAny(text, "\n\r") {
			check(t, map[string]string{"d": "!a\n!b"}, []string{text})
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"a", "b", "c", "d", "/", "/", "*", "**", "?", "[ab]", "[!a]", ".c", "!", "\\", " ", "\n", "e", "x"}
	for range 150 {
		rules := map[string]string{}
		for _, folder := range []string{".", "d", "d/e", "e"} {
			var text strings.Builder
			for range r.IntN(12) {
				text.WriteString(pieces[r.IntN(len(pieces))])
			}
			rules[folder] = text.String()
		}
		check(t, rules, nil)
	}
}

func TestIgnoredIsNoContent(t *testing.T) {
	dir, s := t.TempDir(), open(t, Options{})
	digest := func(src Source) string {
		t.Helper()
		tree, err := s.Digest(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		return string(tree.Digest)
	}
	writeFile(t, filepath.Join(dir, "main.py"), "x")
	bare := digest(Source{Path: dir, IgnoreFiles: true})
	writeFile(t, filepath.Join(dir, "__pycache__/main.pyc"), "1")
	writeFile(t, filepath.Join(dir, IgnoreFile), "# caches\n__pycache__/\n")
	src := Source{Path: dir, IgnoreFiles: true}
	if digest(src) != bare {
		t.Error("what is ignored counts, or the file that says so does")
	}
	writeFile(t, filepath.Join(dir, "__pycache__/main.pyc"), "2")
	writeFile(t, filepath.Join(dir, IgnoreFile), "__pycache__\n")
	if digest(src) != bare {
		t.Error("what is ignored has changed, and counts")
	}
	if digest(Source{Path: dir}) == bare || digest(Source{Path: dir, Ignore: []string{"__pycache__"}}) == bare {
		t.Error("files that nobody asked to be read are")
	}
	tree, err := s.Digest(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Mirror(t.Context(), src, tree)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release()
	if got := walked(t, s, Source{Root: m.Path, Path: "/"}); !slices.Equal(got, []string{"main.py"}) {
		t.Errorf("the mirror holds %q", got)
	}
	rule, err := Ignored(src, "__pycache__/main.pyc")
	if err != nil || rule == nil || fmt.Sprint(rule.File, rule.Line, rule.Pattern) != IgnoreFile+"1__pycache__" {
		t.Error(rule, err)
	}
}

func TestIgnoreFileRefused(t *testing.T) {
	dir, s := t.TempDir(), open(t, Options{})
	if err := os.Symlink("/dev/zero", filepath.Join(dir, IgnoreFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Digest(t.Context(), Source{Path: dir, IgnoreFiles: true}); err == nil || !strings.Contains(err.Error(), "symlink") {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, IgnoreFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, IgnoreFile), make([]byte, maxIgnoreFile+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Digest(t.Context(), Source{Path: dir, IgnoreFiles: true}); err == nil || !strings.Contains(err.Error(), IgnoreFile) {
		t.Error(err)
	}
}

// FuzzGlob finds no pattern that panics, or that takes long.
func FuzzGlob(f *testing.F) {
	for _, pattern := range ignoreCases {
		f.Add(pattern, "a/b/c")
	}
	f.Add(strings.Repeat("a*", 100), strings.Repeat("a", 1000))
	f.Fuzz(func(_ *testing.T, pattern, text string) {
		for _, rule := range parseIgnoreFile(IgnoreFile, []byte(pattern)) {
			rule.glob.match(text)
		}
	})
}
