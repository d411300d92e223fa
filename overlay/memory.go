package overlay

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InMemory makes a folder of a state folder one in memory, for a store where the
// state folder itself cannot have one, and returns its path. Only this mount
// namespace sees it, and it ends with that. In a user namespace it takes Linux 6.6,
// the first with attributes there that users may set.
func InMemory(state string) (string, error) {
	dir := filepath.Join(state, "memory")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.TMPFS_MAGIC {
		return dir, nil
	}
	if err := unix.Mount("layerbuild", dir, "tmpfs", 0, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return dir, nil
}
