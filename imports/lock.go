package imports

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A lockedDir is a folder or file that is locked (flock(2)) as long as it is open.
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

// newDir makes a folder in tmp/, locked for this process alone.
func (s *Store) newDir() (*lockedDir, error) {
	f, err := s.dir().NewFolder(statedir.Mirrors, locks.Exclusive)
	if err != nil {
		return nil, err
	}
	return &lockedDir{f, f.Name()}, nil
}

// lockDir opens a folder or file and locks it, also if that takes a while. It returns nil if it is
// not there, or if there was a link, which it puts aside.
func (s *Store) lockDir(ctx context.Context, path string, how int) (*lockedDir, error) {
	f, err := locks.Open(ctx, path, os.O_RDONLY, how, "has been removing "+path)
	return s.locked(f, path, err)
}

// tryDir is lockDir, but it also returns nil if somebody else has a lock.
func (s *Store) tryDir(path string, how int) (*lockedDir, error) {
	f, err := locks.TryOpen(path, os.O_RDONLY, how)
	return s.locked(f, path, err)
}

func (s *Store) locked(f *os.File, path string, err error) (*lockedDir, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, locks.ErrHeld):
		return nil, nil
	case statedir.Irregular(err):
		return nil, s.dir().PutOddAside(path)
	case err != nil:
		return nil, err
	}
	return &lockedDir{f, path}, nil
}
