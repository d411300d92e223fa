package statedir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
)

// NewFile makes a file in tmp/, open for reading and writing and locked shared, so that no sweep
// takes it. Publish gives it its place.
func (d Dir) NewFile(kind Kind) (*os.File, error) {
	for {
		f, err := os.CreateTemp(d.Path("tmp"), string(kind))
		if err != nil {
			return nil, err
		}
		err = locks.Try(f, locks.Shared)
		if err == nil && locks.Current(f, f.Name()) {
			return f, nil
		}
		f.Close() // a sweep was faster
		os.Remove(f.Name())
		if err != nil && !errors.Is(err, locks.ErrHeld) {
			return nil, err
		}
	}
}

// NewFolder makes a folder of mode 0700 in tmp/ and locks it. Its path is the name of the file.
func (d Dir) NewFolder(kind Kind, how int) (*os.File, error) {
	for {
		path, err := os.MkdirTemp(d.Path("tmp"), string(kind))
		if err != nil {
			return nil, err
		}
		f, err := locks.TryOpen(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, how)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, locks.ErrHeld) && !errors.Is(err, fs.ErrNotExist) { // a sweep was faster
			os.Remove(path)
			return nil, err
		}
	}
}

// Jot makes the file at path, and its folder if need be. It is whole or as it was, but a power cut
// may take it back or damage it: Jot is for hints, and for what has a checksum.
func (d Dir) Jot(path string, data []byte) error {
	if err := d.MakeWay(path); err != nil {
		return err
	}
	tmp := d.TmpName("jot-")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return os.Rename(tmp, path)
}

// MakeWay makes the folder of path, and puts aside what is in the way of a file there: a file in
// place of a folder above it, or anything but a file at path itself.
func (d Dir) MakeWay(path string) error {
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if errors.Is(err, unix.ENOTDIR) {
		err = d.makeFolder(filepath.Dir(path))
	}
	if err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return d.PutOddAside(path)
	}
	return nil
}

// makeFolder makes a folder below d, in place of files that stand for folders.
func (d Dir) makeFolder(path string) error {
	if info, err := os.Lstat(path); err == nil && info.IsDir() || path == string(d) || path == "/" {
		return err
	} else if err == nil {
		if err := d.PutOddAside(path); err != nil {
			return err
		}
	}
	if err := d.makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Publish makes a file of tmp/ seen at path: synced, with this mode, renamed, and its folder
// synced, so that what refers to it may be written next. Locks on it hold.
func (d Dir) Publish(f *os.File, path string, mode fs.FileMode) error {
	if err := d.MakeWay(path); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return Sync(filepath.Dir(path))
}

// Write makes the file at path, and its folder if need be, by what write writes. It is durable
// when Write returns; before, and after an error, path is as it was.
func (d Dir) Write(path string, mode fs.FileMode, write func(io.Writer) error) error {
	if err := d.MakeWay(path); err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(d.Path("tmp")), renameio.WithPermissions(mode))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := write(f); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return Sync(filepath.Dir(path))
}

// Sync has the disk write a file, or the names in a folder, before it returns.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
