// Package inroot opens files below a folder whose content a stranger has made: a root
// filesystem, a snapshot, an unpacked layer. The folder is to them what "/" is to a process
// in a chroot: symlinks and ".." are followed, also in the last element of a path, and none
// of them leads out.
//
// Whatever is there is first opened with O_PATH, which neither blocks nor reads, and only
// then for what it turns out to be. So a fifo does not hang the caller, and a device node
// that a step has made is never opened on the host.
package inroot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// ErrNotRegular is in the chain of errors about what should be a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Open opens whatever is at path below root with O_PATH, to be looked at. Where the kernel
// has no openat2(2), the path is walked one element at a time.
func Open(root, path string) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	handle, err := pathrs.OpenatInRoot(dir, path)
	if err != nil {
		return nil, openError(path, err)
	}
	return handle, nil
}

// Folder opens the folder at path below root for reading.
func Folder(root, path string) (*os.File, error) {
	handle, err := Open(root, path)
	if err != nil {
		return nil, err
	}
	return reopen(handle, path, unix.O_DIRECTORY)
}

// File opens the regular file at path below root for reading. Anything else is an
// ErrNotRegular.
func File(root, path string) (*os.File, error) {
	handle, err := Open(root, path)
	if err != nil {
		return nil, err
	}
	return regular(handle, path)
}

// FileIn opens the regular file of that name in an open folder for reading. Anything else,
// also a symlink to one, is an ErrNotRegular.
func FileIn(dir *os.File, name string) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	if name == ".." || name != filepath.Base(name) {
		return nil, openError(path, unix.EINVAL)
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	return regular(os.NewFile(uintptr(fd), path), path)
}

// Resolve returns the path from root of what is at path below it, with all symlinks in it
// resolved; elements that do not exist stay as they are. It holds while nobody changes what
// is below root.
func Resolve(root, path string) (string, error) {
	whole, err := securejoin.SecureJoin(root, path)
	if err != nil {
		return "", err
	}
	return filepath.Rel(root, whole)
}

// regular opens for reading what handle stands for, a regular file, and closes handle.
func regular(handle *os.File, path string) (*os.File, error) {
	info, err := handle.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = openError(path, ErrNotRegular)
	}
	if err != nil {
		handle.Close()
		return nil, err
	}
	return reopen(handle, path, 0)
}

// reopen opens for reading what handle stands for, and closes handle.
func reopen(handle *os.File, path string, flags int) (*os.File, error) {
	defer handle.Close()
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()), unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openError replaces the names that err has by the path that the caller knows.
func openError(path string, err error) error {
	for named := (*os.PathError)(nil); errors.As(err, &named); {
		err = named.Err
	}
	return &os.PathError{Op: "open", Path: path, Err: err}
}
