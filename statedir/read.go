package statedir

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrIrregular is in the chain of errors about something in the place of a file that layerbuild
// cannot have written: a folder, a fifo, a link, a device, or far too much.
var ErrIrregular = errors.New("not a regular file")

// Open opens a regular file for reading. Anything else is an ErrIrregular, and is never waited for.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if Irregular(err) {
		return nil, fmt.Errorf("%s: %w", path, ErrIrregular)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, ErrIrregular)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// maxFile bounds what ReadFile takes. The largest file that it reads has the text of a stackerfile,
// of 4 MiB at most, in it a few times.
const maxFile = 64 << 20

// ReadFile returns the content of a regular file. Anything else is an ErrIrregular.
func ReadFile(path string) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes: %w", path, info.Size(), ErrIrregular)
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(f, data)
	return data, err
}

// Irregular reports whether an error of opening something says that it is neither the file nor the
// folder that it should be.
func Irregular(err error) bool {
	return errors.Is(err, ErrIrregular) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) ||
		errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR)
}
