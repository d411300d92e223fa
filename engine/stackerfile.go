package engine

import (
	"context"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/redact"
	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/stores"
)

// Stackerfiles brings those that are named by URLs, as http(s) imports are brought:
// kept in the state folder, and taken again when the server says that they changed.
// It is a layers.Fetcher.
type Stackerfiles struct {
	Context  context.Context // of the command
	StateDir string
	Offline  bool         // ask no server: what is here serves
	Notice   func(string) // is told what to tell the user
}

// Name is a method of layers.Fetcher.
func (s *Stackerfiles) Name(url string) string { return redact.URL(url) }

// Fetch is a method of layers.Fetcher.
func (s *Stackerfiles) Fetch(url string) (string, error) {
	set, err := stores.Open(s.Context, s.StateDir, imports.Options{})
	if err != nil {
		return "", err
	}
	defer set.Close()
	file, err := set.Sources.Fetch(s.Context, url, imports.FetchOptions{Offline: s.Offline, MaxSize: layers.MaxSize, Client: registry.New(registry.Options{})})
	if file.Notice != "" && !namespace.InLastLife() { // in which a build does again what it did
		s.Notice(file.Notice)
	}
	return file.Path, err
}
