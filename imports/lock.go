package imports

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A lockedDir is a folder or file that is locked (flock(2)) as long as it is
// open. Everything in tmp/ that is not a plain file in the making is one.
type lockedDir struct {
	*os.File
	path string // where it is now
}

func (d *lockedDir) fd() int { return int(d.Fd()) }

// isAt tells whether it is what is at path.
func (d *lockedDir) isAt(path string) bool {
	is, err := d.Stat()
	now, gone := os.Lstat(path)
	return err == nil && gone == nil && os.SameFile(is, now)
}

func (d *lockedDir) rename(path string) error {
	err := os.Rename(d.path, path)
	if err == nil {
		d.path = path
	}
	return err
}

// remove removes it with all that is in it, and then gives up the lock.
func (d *lockedDir) remove() error {
	return errors.Join(os.RemoveAll(d.path), d.Close())
}

// newDir makes a folder in tmp/, locked for this process alone.
func (s *Store) newDir(ctx context.Context) (*lockedDir, error) {
	for {
		path := s.tmpName("mirror")
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		if d, err := lockDir(ctx, path, unix.LOCK_EX); d != nil || err != nil {
			return d, err
		}
	}
}

// tmpName returns a name in tmp/ that nobody else has.
func (s *Store) tmpName(kind string) string {
	n := strconv.FormatInt(time.Now().UnixNano(), 36) + "-" + strconv.FormatUint(s.unique.Add(1), 36)
	return filepath.Join(s.state, "tmp", fmt.Sprintf("imports-%s-%d-%s", kind, os.Getpid(), n))
}

// lockDir opens and locks a folder. It returns nil if the folder is not there,
// or, with LOCK_NB, if somebody else has a lock on it.
func lockDir(ctx context.Context, path string, how int) (*lockedDir, error) {
	return lock(ctx, path, os.O_RDONLY, how)
}

// lockFile makes a file unless it is there, and locks it for this process alone.
func lockFile(ctx context.Context, path string) (*lockedDir, error) {
	return lock(ctx, path, os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
}

func lock(ctx context.Context, path string, flags, how int) (*lockedDir, error) {
	for {
		f, err := os.OpenFile(path, flags, 0o644)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, int(f.Fd()), how); err != nil {
			f.Close()
			if how&unix.LOCK_NB != 0 && errors.Is(err, unix.EWOULDBLOCK) {
				return nil, nil
			}
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		d := &lockedDir{f, path}
		if d.isAt(path) {
			return d, nil
		}
		f.Close() // it was renamed or removed before the lock was there
	}
}

// flock locks an open file. It waits for a lock that somebody else has until
// ctx ends; with LOCK_NB it does not wait and returns unix.EWOULDBLOCK.
func flock(ctx context.Context, fd, how int) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(fd, how|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || how&unix.LOCK_NB != 0 {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
