package statedir

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove removes a file or a folder, which the caller has locked exclusively. It is gone from its
// place at once. If removing it is cut short, a sweep of kind goes on with it.
func (d Dir) Remove(path string, kind Kind) error {
	grave, err := d.TakeAway(path, kind)
	if err != nil {
		return err
	}
	return os.RemoveAll(grave)
}

// TakeAway renames a file or a folder to a name of its own in tmp/, and returns that. Nothing is
// made for it, so it works on a full disk.
func (d Dir) TakeAway(path string, kind Kind) (string, error) {
	return move(path, d.TmpName(kind))
}

// TmpName returns a path in tmp/ that nobody else has.
func (d Dir) TmpName(kind Kind) string { return d.Path("tmp", string(kind)+rand.Text()) }

// PutAside moves what is damaged to corrupt/, under a name that begins with name, and returns
// where it is. A process that has it open goes on reading it.
func (d Dir) PutAside(path, name string) (string, error) {
	if err := os.MkdirAll(d.Path("corrupt"), 0o700); err != nil {
		return "", err
	}
	to, err := move(path, d.Path("corrupt", name))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EISDIR) {
		return move(path, d.Path("corrupt", name+"-"+rand.Text()))
	}
	return to, err
}

func move(path, to string) (string, error) {
	if err := unix.Rename(path, to); err != nil {
		return "", &os.LinkError{Op: "rename", Old: path, New: to, Err: err}
	}
	return to, Sync(filepath.Dir(path))
}
