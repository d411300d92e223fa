package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/inroot"
)

// A Mountpoint is something that must exist in a root filesystem for something
// else to be mounted on it.
type Mountpoint struct {
	Path string // from the root; symlinks in it are followed, never out of the root
	File bool   // a file; otherwise a folder
}

// ensure makes the mountpoint exist below root, with all folders above it, and
// notes what it had to make. Folders that are there keep their mtime; what is made
// has the same one, 1970-01-01, whenever it is made, since a run can see it.
func (m *Mutable) ensure(root string, p Mountpoint) error {
	if err := m.ensurePath(root, p); err != nil {
		return fmt.Errorf("mountpoint %s: %w", p.Path, err)
	}
	return nil
}

func (m *Mutable) ensurePath(path string, p Mountpoint) error {
	rel, err := inroot.Resolve(path, p.Path)
	if err != nil || rel == "." {
		return err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	names := strings.Split(rel, "/")
	for i := range names {
		last := i == len(names)-1
		if err := m.ensureOne(root, filepath.Join(names[:i+1]...), last && p.File); err != nil {
			return err
		}
	}
	return nil
}

// ensureOne makes what is at rel, which has no symlinks in it: root refuses any that lead out.
func (m *Mutable) ensureOne(root *os.Root, rel string, file bool) error {
	info, err := root.Lstat(rel)
	switch {
	case err == nil && file && info.IsDir():
		return fmt.Errorf("/%s is a folder in the root filesystem, and a file is to be mounted there", rel)
	case err == nil && !file && !info.IsDir():
		return fmt.Errorf("/%s is no folder in the root filesystem", rel)
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	above, err := root.Lstat(filepath.Dir(rel))
	if err != nil {
		return err
	}
	mode := os.FileMode(0o755)
	if file {
		mode = 0o644
		err = root.WriteFile(rel, nil, mode)
	} else {
		err = root.Mkdir(rel, mode)
	}
	if err != nil {
		return err
	}
	m.made[rel] = true
	if err := root.Chmod(rel, mode); err != nil { // whatever the umask
		return err
	}
	if err := root.Chtimes(rel, time.Time{}, time.Unix(0, 0)); err != nil {
		return err
	}
	return root.Chtimes(filepath.Dir(rel), time.Time{}, above.ModTime())
}
