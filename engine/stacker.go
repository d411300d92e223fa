package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/sandbox"
)

// Where a run finds what the engine gives it.
const (
	stackerDir = layers.LegacyImportsFolder
	scriptName = ".stacker-run.sh"
	labelsDir  = "/oci-labels"
	labelsLink = "oci-labels" // in stackerDir: where later releases of stacker have it
)

// A stackerFolder is what a run sees at /stacker: the script, and the imports,
// which are mounted on places made for them. All of it is read-only, and its
// times are the same in every run.
type stackerFolder struct {
	dir    string // on this machine; it exists and is empty
	labels bool   // the script is to leave labels
	mounts []sandbox.Mount
}

func (f *stackerFolder) fill(script string, shown []imported, mirrors []*imports.Mirror) error {
	if err := os.Chmod(f.dir, 0o755); err != nil { // a run may be another user's
		return err
	}
	if !allLegacy(shown) {
		if err := os.Mkdir(f.inside(layers.ImportsFolder), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(f.dir, scriptName), []byte(script), 0o755); err != nil {
		return err
	}
	if f.labels {
		if err := os.Symlink(labelsDir, filepath.Join(f.dir, labelsLink)); err != nil {
			return err
		}
	}
	f.mounts = []sandbox.Mount{{Source: f.dir, Dest: stackerDir, ReadOnly: true}}
	for i, imp := range shown {
		if err := f.show(imp, mirrors[i].Path); err != nil {
			return fail(imp.source.l, imp.Pos, err)
		}
	}
	return f.fixTimes()
}

// allLegacy reports whether there are imports, and all are seen in /stacker itself, where
// scripts written for stacker take whatever they find for an import.
func allLegacy(shown []imported) bool {
	return len(shown) > 0 && !slices.ContainsFunc(shown, func(i imported) bool { return i.Folder() != layers.LegacyImportsFolder })
}

// inside returns where a path below /stacker is on this machine.
func (f *stackerFolder) inside(path string) string {
	return filepath.Join(f.dir, strings.TrimPrefix(path, stackerDir))
}

// show puts an import where the run sees it: at its name, or if the content of a
// folder is meant, the folder's entries each at theirs.
func (f *stackerFolder) show(imp imported, mirror string) error {
	if imp.Mount != "" {
		f.mounts = append(f.mounts, sandbox.Mount{Source: mirror, Dest: imp.Mount, ReadOnly: true})
		return nil
	}
	if imp.Name != "" {
		return f.put(imp, mirror, imp.Folder()+"/"+imp.Name)
	}
	entries, err := os.ReadDir(mirror)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := f.put(imp, filepath.Join(mirror, entry.Name()), imp.Folder()+"/"+entry.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (f *stackerFolder) put(imp imported, from, place string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0: // nothing can be mounted on one
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, f.inside(place))
		}
	case info.IsDir():
		err = os.Mkdir(f.inside(place), 0o755)
	default:
		var file *os.File
		if file, err = os.OpenFile(f.inside(place), os.O_CREATE|os.O_EXCL, 0o644); err == nil {
			err = file.Close()
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("import %q: something else is seen at %q already: rename one", imp.Source.Raw, place)
	}
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		f.mounts = append(f.mounts, sandbox.Mount{Source: from, Dest: place, ReadOnly: true})
	}
	return err
}

func (f *stackerFolder) fixTimes() error {
	return filepath.WalkDir(f.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fixed := unix.NsecToTimespec(defaultEpoch.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{fixed, fixed}, unix.AT_SYMLINK_NOFOLLOW)
	})
}
