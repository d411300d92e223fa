package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
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
	path, err := securejoin.SecureJoin(root, p.Path)
	if err != nil {
		return fmt.Errorf("mountpoint %s: %w", p.Path, err)
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return fmt.Errorf("mountpoint %s: %w", p.Path, err)
	}
	if rel == "." {
		return nil
	}
	names := strings.Split(rel, "/")
	for i := range names {
		last := i == len(names)-1
		if err := m.ensureOne(root, filepath.Join(names[:i+1]...), last && p.File); err != nil {
			return fmt.Errorf("mountpoint %s: %w", p.Path, err)
		}
	}
	return nil
}

func (m *Mutable) ensureOne(root, rel string, file bool) error {
	path := filepath.Join(root, rel)
	info, err := os.Lstat(path)
	switch {
	case err == nil && file && info.IsDir():
		return fmt.Errorf("/%s is a folder in the root filesystem, and a file is to be mounted there", rel)
	case err == nil && !file && !info.IsDir():
		return fmt.Errorf("/%s is no folder in the root filesystem", rel)
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	above, err := os.Lstat(filepath.Dir(path))
	if err != nil {
		return err
	}
	mode := os.FileMode(0o755)
	if file {
		mode = 0o644
		err = os.WriteFile(path, nil, mode)
	} else {
		err = os.Mkdir(path, mode)
	}
	if err != nil {
		return err
	}
	m.made[rel] = true
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		return err
	}
	if err := setMtime(path, time.Unix(0, 0)); err != nil {
		return err
	}
	return setMtime(filepath.Dir(path), above.ModTime())
}

func setMtime(path string, t time.Time) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(t.UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
}
