package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// Attributes that overlayfs keeps for itself in an upper folder begin with private.
// In a user namespace trusted attributes cannot be set, and it is mounted with
// userxattr. What a user sets under this name inside a mount is stored with the
// word overlay twice (Linux 6.7): that is content.
var (
	private      = privateHere()
	privateUsers = private + "overlay."
	opaque       = private + "opaque"
)

const maxListXattrs = 64 << 10 // XATTR_LIST_MAX

func privateHere() string {
	if userns.RunningInUserNS() {
		return "user.overlay."
	}
	return "trusted.overlay."
}

func isPrivate(name string) bool {
	return strings.HasPrefix(name, private) && !strings.HasPrefix(name, privateUsers)
}

// listXattrs returns the names of a file's extended attributes; a symlink is not
// followed. A filesystem without them has none.
func listXattrs(path string) ([]string, error) {
	for size := 1 << 10; ; size = maxListXattrs {
		buf := make([]byte, size)
		n, err := unix.Llistxattr(path, buf)
		switch {
		case errors.Is(err, unix.ERANGE) && size < maxListXattrs:
			continue
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("read attributes of %s: %w", path, err)
		case n == 0:
			return nil, nil
		}
		return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
	}
}

func getXattr(path, name string) (string, error) {
	size, err := unix.Lgetxattr(path, name, nil)
	if err != nil {
		return "", fmt.Errorf("read attribute %s of %s: %w", name, path, err)
	}
	buf := make([]byte, size)
	if size, err = unix.Lgetxattr(path, name, buf); err != nil {
		return "", fmt.Errorf("read attribute %s of %s: %w", name, path, err)
	}
	return string(buf[:size]), nil
}

// xattrs returns a file's extended attributes without overlayfs's own.
func xattrs(path string) (map[string]string, error) {
	names, err := listXattrs(path)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, name := range names {
		if isPrivate(name) {
			continue
		}
		if all[name], err = getXattr(path, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// isOpaque says whether a folder hides what the parents have of it.
func isOpaque(path string) (bool, error) {
	value, err := getXattr(path, opaque)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return value == "y", err
}

// copyAttributes gives the folder to the owner, mode, extended attributes and
// mtime of the folder from.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return fmt.Errorf("stat %s: %w", from, err)
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod %s: %w", to, err)
	}
	all, err := xattrs(from)
	if err != nil {
		return err
	}
	for name, value := range all {
		if err := unix.Lsetxattr(to, name, []byte(value), 0); err != nil {
			return fmt.Errorf("set attribute %s of %s: %w", name, to, err)
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW)
}
