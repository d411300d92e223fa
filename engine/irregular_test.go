package engine

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/gc"
)

// TestIrregular puts other things in the place of files of the state folder. Each is damage like
// any other: nothing waits for a fifo, and images are what they were.
func TestIrregular(t *testing.T) {
	t.Setenv("PASSED", "1")
	f := newFixture(t)
	f.options.OCIDir = filepath.Join(t.TempDir(), "oci")
	before := f.build()
	for _, row := range []struct {
		what string
		put  func(path string) error
	}{
		{"a fifo", func(path string) error { return unix.Mkfifo(path, 0o600) }},
		{"a folder", func(path string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o700) }},
		{"a link", func(path string) error { return os.Symlink("/dev/zero", path) }},
		{"nothing", func(path string) error { return os.WriteFile(path, nil, 0o600) }},
		{"a file", func(path string) error { return os.WriteFile(path, nil, 0o600) }},
		{"a hole", func(path string) error { return os.WriteFile(path, make([]byte, 100), 0o600) }},
	} {
		groups := f.stateFiles(fs.FileMode.IsRegular)
		if row.what == "a link" { // at the top links are refused
			delete(groups, ".")
		}
		if row.what == "a file" {
			groups = f.stateFiles(fs.FileMode.IsDir)
		}
		for _, group := range slices.Sorted(maps.Keys(groups)) {
			what := row.what + " in place of what is in " + group
			late := time.AfterFunc(time.Minute, func() { panic(what + ": the build hangs") })
			for _, path := range groups[group] {
				if _, err := os.Lstat(path); err != nil {
					continue // it was in another one
				}
				f.check(os.RemoveAll(path))
				f.check(row.put(path))
			}
			if _, err := gc.DiskUsage(t.Context(), f.state, nil); err != nil {
				t.Errorf("%s: du: %v", what, err)
			}
			faults := gc.FsckOptions{StateDir: f.state, ReadData: true, Found: func(gc.Fault) {}}
			if _, err := gc.Fsck(t.Context(), faults); err != nil && !errors.As(err, new(*gc.FsckError)) {
				t.Errorf("%s: fsck: %v", what, err)
			}
			if after := f.build(); !maps.Equal(after.manifests, before.manifests) {
				t.Errorf("%s: the images are others", what)
			}
			late.Stop()
		}
	}
}

// stateFiles returns what is of a type in the state folder, by the folder at its top in which it
// is. It leaves out the content of layers, imports and caches.
func (f *fixture) stateFiles(isType func(fs.FileMode) bool) map[string][]string {
	f.t.Helper()
	groups := map[string][]string{}
	f.check(filepath.WalkDir(f.state, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(f.state, path)
		group, _, deep := strings.Cut(rel, "/")
		if !deep {
			group = "."
		}
		if rel == "corrupt" || entry.IsDir() && (entry.Name() == "fs" || entry.Name() == "root") {
			return fs.SkipDir
		}
		if rel != "." && isType(entry.Type()) {
			groups[group] = append(groups[group], path)
		}
		return err
	}))
	return groups
}
