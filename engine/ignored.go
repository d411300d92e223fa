package engine

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
)

// An IgnoredBy is an import that a path lies in, and the rule that decides whether the path is
// imported.
type IgnoredBy struct {
	Layer  string
	Import layers.Import
	Below  string        // the path, relative to the import
	Rule   *imports.Rule // nil if no rule matches: the path is imported
}

// Ignored returns each import of a stackerfile that path lies in. It fails if there is none.
func Ignored(stackerfile string, load layers.Options, path string) ([]IgnoredBy, error) {
	graph, err := layers.Load(stackerfile, load)
	if err != nil {
		return nil, err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var all []IgnoredBy
	for _, l := range graph.Layers {
		for _, imp := range l.Imports {
			below, err := filepath.Rel(imp.Source.Path, path)
			if imp.Source.Scheme != layers.SchemeLocal || err != nil || below == ".." || strings.HasPrefix(below, "../") {
				continue
			}
			at := importedSource(imp)
			at.Path, at.Content = imp.Source.Path, imp.Source.Content
			found := IgnoredBy{Layer: l.Name, Import: imp, Below: below}
			if below != "." {
				if found.Rule, err = imports.Ignored(at, below); err != nil {
					return nil, err
				}
			}
			all = append(all, found)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s lies in no import of %s", path, stackerfile)
	}
	return all, nil
}
