package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// aFolder is how folders are opened to be locked.
const aFolder = os.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW

// lockFolder locks the folder at path without waiting, shared to use it, exclusive to
// remove it, until the file is closed or the process ends. It fails with ErrNotFound if
// there is no such folder, and with ErrLocked if somebody has it.
func lockFolder(path string, how int) (*os.File, error) {
	f, err := locks.TryOpen(path, aFolder, how)
	return f, found(err)
}

// use locks the folder at path shared. If somebody is about to remove it, it waits for
// what comes of that: the lock is held for as long as it takes to decide.
func use(ctx context.Context, path string) (*os.File, error) {
	f, err := locks.Open(ctx, path, aFolder, locks.Shared, "has been removing "+filepath.Base(path))
	return f, found(err)
}

// found makes ErrNotFound of what says that a folder does not exist, and ErrInvalid of what says that
// it is none.
func found(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrNotFound
	case statedir.Irregular(err):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return err
}
