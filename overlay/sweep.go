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
	"golang.org/x/sys/unix"
)

// Sweep removes what dead processes left in tmp/, and unmounts what they left
// mounted there. It leaves alone what a living process works on. It goes on
// after an error, and returns all of them.
func (s *Store) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(s.tmp)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tmpPrefix) || !e.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failed, err)...)
		}
		if err := sweep(filepath.Join(s.tmp, e.Name())); err != nil {
			failed = append(failed, fmt.Errorf("sweep: %w", err))
		}
	}
	return errors.Join(failed...)
}

// sweep removes a folder of tmp/ if nobody holds it.
func sweep(dir string) error {
	lock, err := lockFolder(dir, unix.LOCK_EX)
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
		if err := detach(mnt.Mountpoint); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}
