package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
)

// present finds what layers read of this machine and what is not there, of all
// layers at once and before anything is built. What a run may still make, since
// the folder is bound into it, is not looked for.
func present(graph *layers.Graph) error {
	var missing layers.Errors
	for _, l := range graph.Layers {
		look := func(pos layers.Position, path string) {
			_, err := os.Lstat(path)
			if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)) && !mayBeMade(graph, path) {
				missing = append(missing, &layers.Error{Pos: pos, Layer: l.Name, Msg: path + " does not exist"})
			}
		}
		if from := l.From; from.Type == layers.BaseOCI || from.Type == layers.BaseTar && from.Source.Scheme == layers.SchemeLocal {
			look(from.Pos, from.Source.Path)
		}
		for _, imp := range l.Imports {
			if imp.Source.Scheme == layers.SchemeLocal && imp.Source.Path != "" {
				look(imp.Pos, imp.Source.Path)
			}
		}
		for _, dir := range l.OverlayDirs {
			look(dir.Pos, dir.Source)
		}
		for _, bind := range l.Binds {
			look(bind.Pos, bind.Source)
		}
	}
	return missing.Err()
}

// mayBeMade tells whether a run can write to a path of this machine.
func mayBeMade(graph *layers.Graph, path string) bool {
	for _, l := range graph.Layers {
		for _, bind := range l.Binds {
			rel, err := filepath.Rel(bind.Source, path)
			if err == nil && !bind.Track && rel != "." && rel != ".." && !strings.HasPrefix(rel, "../") {
				return true
			}
		}
	}
	return false
}
