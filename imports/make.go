package imports

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
)

// MakeFolder makes a folder in the root filesystem at root, and those on the way to it
// that are missing, with the owner and mode of o, 0755 by default. One that is there stays
// as it is.
func MakeFolder(root, at string, o CopyOptions) error {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return named(root, err)
	}
	defer unix.Close(fd)
	made, err := inroot.WalkFolder(fd, at, o.folder())
	closeFd(made)
	return named(at, err)
}

// WriteFile makes a file in the root filesystem at root, with the owner and mode of o,
// 0644 by default. As Copy has it dest is the file, or a folder that it goes into as
// o.Name.
func WriteFile(ctx context.Context, root, dest string, content []byte, o CopyOptions) error {
	rootfd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return named(root, err)
	}
	defer unix.Close(rootfd)
	file, err := memoryFile(content)
	if err != nil {
		return err
	}
	defer file.Close()
	src := Source{Path: o.Name}
	f := fill{src: src, source: int(file.Fd()), root: rootfd, share: -1, mtime: o.Epoch, replace: true}
	if o.Epoch.IsZero() {
		f.mtime = time.Now()
	}
	f.own(o)
	if f.at, err = target(rootfd, src, Tree{}, dest, o.Name); err != nil {
		return err
	}
	if _, err := f.prepare(Tree{}); err != nil {
		return f.problem(".", err)
	}
	return f.run(ctx, []Entry{{Path: ".", Type: File, Mode: 0o644, Size: int64(len(content)), Sum: sha256.Sum256(content)}}, nil)
}

// memoryFile returns a file in memory.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("layerbuild", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "in memory")
	if _, err := io.Copy(file, bytes.NewReader(content)); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
