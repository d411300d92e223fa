package imports

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/locks"
)

// A lockedDir is a folder or file that is locked (flock(2)) as long as it is
// open. Everything in tmp/ that is not a plain file in the making is one.
type lockedDir struct {
	*os.File
	path string // where it is now
}

func (d *lockedDir) fd() int { return int(d.Fd()) }

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

// What the names in tmp/ begin with.
const (
	mirrorPrefix = "imports-mirror-"
	hintPrefix   = "imports-hint-"
)

// newDir makes a folder in tmp/, locked for this process alone.
func (s *Store) newDir(ctx context.Context) (*lockedDir, error) {
	for {
		path := s.tmpName(mirrorPrefix)
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		if d, err := lockDir(ctx, path, locks.Exclusive); d != nil || err != nil {
			return d, err
		}
	}
}

// tmpName returns a name in tmp/ that nobody else has.
func (s *Store) tmpName(prefix string) string {
	n := strconv.FormatInt(time.Now().UnixNano(), 36) + "-" + strconv.FormatUint(s.unique.Add(1), 36)
	return filepath.Join(s.state, "tmp", fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), n))
}

// lockDir opens a folder or file and locks it, also if that takes a while. It returns
// nil if it is not there.
func lockDir(ctx context.Context, path string, how int) (*lockedDir, error) {
	f, err := locks.Open(ctx, path, os.O_RDONLY, how, "has been removing "+path)
	return locked(f, path, err)
}

// tryDir is lockDir, but it also returns nil if somebody else has a lock.
func tryDir(path string, how int) (*lockedDir, error) {
	f, err := locks.TryOpen(path, os.O_RDONLY, how)
	return locked(f, path, err)
}

func locked(f *os.File, path string, err error) (*lockedDir, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, locks.ErrHeld):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &lockedDir{f, path}, nil
}

// sweep removes the folders in tmp/ that dead processes had locked.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(filepath.Join(s.state, "tmp"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mirrorPrefix) {
			continue
		}
		left, err := tryDir(filepath.Join(s.state, "tmp", e.Name()), locks.Exclusive)
		if left != nil {
			err = left.remove()
		}
		// What a user may remove only where it is root, the next one there removes.
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}
