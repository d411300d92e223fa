package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how long a reader waits before it looks again at a folder that
// somebody has locked to remove it. That lock is held for as long as it takes to
// decide, not to remove.
const lockPoll = 2 * time.Millisecond

// lockFolder locks the folder at path without waiting: unix.LOCK_SH to use it,
// unix.LOCK_EX to remove it. The lock lasts until the file is closed or the
// process ends. It is the folder that is locked, not its name: the lock goes
// along when the folder is renamed.
//
// It fails with ErrNotFound if there is no such folder, also when it was renamed
// between opening and locking, and with ErrLocked if somebody has it.
func lockFolder(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, err
	}
	locked, err := f.Stat()
	if err == nil {
		var named fs.FileInfo
		named, err = os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(locked, named) {
			err = ErrNotFound
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrLocked
		default:
			return fmt.Errorf("lock %s: %w: its filesystem has no flock; put --state-dir on a local disk", f.Name(), err)
		}
	}
}

// use locks the folder at path shared. If somebody is about to remove it, it
// waits for what comes of that.
func use(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := lockFolder(path, unix.LOCK_SH)
		if !errors.Is(err, ErrLocked) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// newFolder makes a folder of a unique name in tmp/, locked shared by this process.
func (s *Store) newFolder() (string, *os.File, error) {
	for {
		path, err := os.MkdirTemp(s.tmp, tmpPrefix)
		if err != nil {
			return "", nil, err
		}
		f, err := lockFolder(path, unix.LOCK_SH)
		if err == nil {
			return path, f, nil
		}
		// Another process swept it before it was locked.
		if !errors.Is(err, ErrLocked) && !errors.Is(err, ErrNotFound) {
			os.Remove(path)
			return "", nil, err
		}
	}
}

func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
