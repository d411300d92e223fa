package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is what imports of packages of this tree begin with.
const module = "github.com/layerbuild/layerbuild/"

// CONTRIBUTING.md says which package imports which. Whoever adds an import adds it there,
// and sees what the house becomes.
func TestHouse(t *testing.T) {
	text, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.Contains(line, " → ") {
			said[line] = true
		}
	}
	for name, imports := range importsOf(t, "../..") {
		if len(imports) == 0 {
			continue
		}
		line := name + " → " + strings.Join(slices.Sorted(maps.Keys(imports)), " ")
		if !said[line] {
			t.Errorf("CONTRIBUTING.md lacks\n    %s", line)
		}
		delete(said, line)
	}
	for line := range said {
		t.Errorf("CONTRIBUTING.md has what is not so:\n    %s", line)
	}
}

// importsOf returns the packages below a folder, and which of them each imports outside
// of its tests.
func importsOf(t *testing.T, root string) map[string]map[string]bool {
	t.Helper()
	all := map[string]map[string]bool{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() && (strings.HasPrefix(e.Name(), ".") && path != root || e.Name() == "testdata") {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if all[dir] == nil {
			all[dir] = map[string]bool{}
		}
		for _, spec := range file.Imports {
			if name, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module); ok {
				all[dir][name] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
