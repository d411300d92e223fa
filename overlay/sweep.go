package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/layerbuild/layerbuild/locks"
)

// Sweep removes what dead processes left in tmp/, and unmounts what they left mounted
// there. It leaves alone what a living process works on. It goes on after an error, and
// returns all of them.
func (s *Store) Sweep(ctx context.Context) error {
	dirs, err := s.leftovers()
	if err != nil {
		return err
	}
	var failed []error
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failed, err)...)
		}
		if err := s.sweep(dir); err != nil {
			failed = append(failed, fmt.Errorf("sweep: %w", err))
		}
	}
	return errors.Join(failed...)
}

// leftovers returns our folders in tmp/, whether somebody holds them or not.
func (s *Store) leftovers() ([]string, error) {
	entries, err := os.ReadDir(s.tmp)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tmpPrefix) {
			dirs = append(dirs, filepath.Join(s.tmp, e.Name()))
		}
	}
	return dirs, nil
}

// sweep removes a folder, and what is mounted in it, if nobody holds it.
func (s *Store) sweep(dir string) error {
	lock, err := lockFolder(dir, locks.Exclusive)
	if errors.Is(err, ErrLocked) || errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	// What was mounted last lies on top.
	for _, mnt := range slices.Backward(mounts) {
		if err := s.detach(mnt.Mountpoint); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}
