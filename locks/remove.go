package locks

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// removedPrefix begins the names of folders that are being removed.
const removedPrefix = ".layerbuild-removed-"

// RemoveAll removes the folder at path, at once as others see it; and those beside it
// whose removing was cut short by the death of the process.
func RemoveAll(path string) error {
	dir := filepath.Dir(path)
	gone, err := newGrave(dir)
	if err != nil {
		return err
	}
	defer gone.Close()
	err = unix.Rename(path, filepath.Join(gone.Name(), "folder"))
	if err = errors.Join(err, os.RemoveAll(gone.Name())); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(dir, removedPrefix+"*"))
	for _, path := range left {
		dead, err := TryOpen(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, Exclusive)
		if err != nil {
			continue // another is at it, or has removed it
		}
		_ = os.RemoveAll(path) // it may be another user's
		dead.Close()
	}
	return err
}

// newGrave makes a folder that is locked by this process.
func newGrave(dir string) (*os.File, error) {
	for {
		path, err := os.MkdirTemp(dir, removedPrefix)
		if err != nil {
			return nil, err
		}
		f, err := TryOpen(path, os.O_RDONLY, Exclusive)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrHeld) {
			return f, err
		}
	}
}
