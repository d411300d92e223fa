package overlay

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InMemory opens a store in memory, for a state folder that cannot have one itself. It
// ends with the Space in which it is mounted, below the state folder, and which nil is
// not. In a user namespace it takes Linux 6.6, the first with attributes there that
// users may set.
func InMemory(state string, space Space) (*Store, error) {
	dir := filepath.Join(state, "memory")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	reached := space.Reach(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(reached, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		if err := space.Do(func() error { return unix.Mount("layerbuild", dir, "tmpfs", 0, "mode=0700") }); err != nil {
			return nil, fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
		}
	}
	s, err := openIn(reached)
	if err == nil {
		s.Space = space
	}
	return s, err
}
