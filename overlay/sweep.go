package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Sweep removes what dead processes left in tmp/, and unmounts what they left
// mounted there or in failed/. It leaves alone what a living process works on. It
// goes on after an error, and returns all of them.
func (s *Store) Sweep(ctx context.Context) error {
	var failed []error
	for _, in := range []string{s.tmp, s.failed} {
		entries, err := os.ReadDir(in)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if !e.IsDir() || in == s.tmp && !strings.HasPrefix(e.Name(), tmpPrefix) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return errors.Join(append(failed, err)...)
			}
			if err := sweep(filepath.Join(in, e.Name()), in == s.tmp); err != nil {
				failed = append(failed, fmt.Errorf("sweep: %w", err))
			}
		}
	}
	return errors.Join(failed...)
}

// sweep unmounts what is mounted in a folder, and perhaps removes it, if nobody
// holds it.
func sweep(dir string, remove bool) error {
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
	if !remove {
		return nil
	}
	return os.RemoveAll(dir)
}
