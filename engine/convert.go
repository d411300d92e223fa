package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerbuild/layerbuild/dockerfile"
)

// ConvertOptions say what to convert, and to where. The files to write must not
// exist.
type ConvertOptions struct {
	Dockerfile     string // its folder is the build context
	Stackerfile    string
	SubstituteFile string // is written if there are substitutions
	Name           string // of the layer that the last stage becomes, when it has none
}

// Convert writes a stackerfile for a Dockerfile, and returns what became something
// else, or nothing, each with file and line.
func Convert(o ConvertOptions) (notes []string, err error) {
	for _, file := range []string{o.Stackerfile, o.SubstituteFile} {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is there already: remove it, or name another file", file)
		}
	}
	f, err := os.Open(o.Dockerfile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	context := filepath.Dir(o.Dockerfile)
	from, err := relative(filepath.Dir(o.Stackerfile), context)
	if err != nil {
		return nil, err
	}
	result, err := dockerfile.Convert(f, dockerfile.Options{
		Name:    o.Name,
		File:    filepath.Base(o.Dockerfile),
		Files:   os.DirFS(context),
		Context: from,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dockerfile, err)
	}
	for _, note := range result.Notes {
		notes = append(notes, fmt.Sprintf("%s:%d: %s", o.Dockerfile, note.Line, note.Text))
	}
	if err := os.WriteFile(o.Stackerfile, result.Stackerfile, 0o644); err != nil {
		return notes, err
	}
	if result.Substitutions == nil {
		return notes, nil
	}
	return notes, os.WriteFile(o.SubstituteFile, result.Substitutions, 0o644)
}

// relative is the path of a folder as seen from another one. Either may be absolute.
func relative(from, to string) (string, error) {
	from, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	if to, err = filepath.Abs(to); err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}
