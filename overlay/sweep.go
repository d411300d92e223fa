package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/moby/sys/mountinfo"

	"github.com/layerbuild/layerbuild/statedir"
)

// Sweep removes what dead processes left in tmp/, and unmounts what they left mounted there. It
// leaves alone what a living process works on. It goes on after an error, and returns all of them.
func (s *Store) Sweep(ctx context.Context) error {
	return s.dir.Sweep(statedir.Overlays, func(left *os.File) error {
		if err := errors.Join(ctx.Err(), s.detachAll(left.Name())); err != nil {
			left.Close()
			return fmt.Errorf("sweep: %w", err)
		}
		return statedir.RemoveLeft(left)
	})
}

// detachAll unmounts what is mounted in a folder of tmp/.
func (s *Store) detachAll(dir string) error {
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
	return nil
}
