package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/statedir"
)

// rootsLink is the name, in a state folder, of the link to the folder that holds the snapshots and
// what becomes of them, when that is not the state folder itself.
const rootsLink = statedir.Roots

// Roots returns the folder that the store of a state folder is in: that folder
// itself, unless SetRoots said otherwise.
func Roots(state string) (string, error) {
	to, err := os.Readlink(filepath.Join(state, rootsLink))
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	return to, err
}

// SetRoots has the store of a state folder be in the folder dir, from the next Open
// on, and returns where it was. What is there stays: a store is found again where
// its folder is named again.
func SetRoots(state, dir string) (before string, err error) {
	if err := statedir.Dir(state).Check(); err != nil {
		return "", fmt.Errorf("state folder: %w", err)
	}
	if before, err = Roots(state); err != nil {
		return "", err
	}
	for _, folder := range []string{state, dir} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return "", err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil || sameFolder(before, dir) {
		return before, err
	}
	link := filepath.Join(state, rootsLink)
	if sameFolder(state, dir) {
		return before, os.Remove(link)
	}
	fresh, err := os.MkdirTemp(state, "."+rootsLink+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	if err := os.Symlink(dir, filepath.Join(fresh, rootsLink)); err != nil {
		return "", err
	}
	return before, os.Rename(filepath.Join(fresh, rootsLink), link)
}

func sameFolder(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// Clear removes all that is in the store, but for what some process uses and what
// that stands on, and the store's folder when nothing else is there.
func (s *Store) Clear(ctx context.Context) error {
	l, err := s.List(ctx, Listing{})
	if err != nil {
		return err
	}
	for _, kept := range l.Kept {
		if err := s.RemoveKept(kept.Name); err == nil {
			l.DropKept(kept.Name)
		} else if !errors.Is(err, ErrLocked) {
			return err
		}
	}
	for _, snap := range l.Snapshots {
		if err := s.clear(l, snap.ID); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(s.dir.Path("corrupt")); err != nil {
		return err
	}
	if err := s.dir.LeavePlace(); err != nil {
		return err
	}
	for _, dir := range []string{s.snapshots, s.failed, s.dir.Path("tmp"), s.Dir()} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// clear removes a snapshot if nothing stands on it, and then what it stood on.
func (s *Store) clear(l *Listing, id digest.Digest) error {
	for snap := l.Find(id); snap != nil && snap.Children == 0; snap = l.Find(id) {
		below := snap.Parent
		switch err := s.remove(id, func() (string, error) { return "", nil }, func() { l.drop(id) }); {
		case errors.Is(err, ErrLocked):
			return nil
		case err != nil:
			return err
		}
		id = below
	}
	return nil
}
