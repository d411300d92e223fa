package inroot

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// WalkFolder opens the folder at path below the open folder root, one element at a time: the
// path, and what symlinks make of it, may be longer than PATH_MAX. Unless missing is nil,
// folders that are missing are made as it says.
//
// Nobody else may rename folders below root meanwhile.
func WalkFolder(root int, path string, missing *NewFolder) (int, error) {
	at, err := unix.Openat(root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	links := 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next, target, err := step(root, at, name, missing)
		if err == nil && target != "" {
			if links++; links > 255 {
				err = unix.ELOOP
			}
			rest = target + "/" + rest
			if target[0] == '/' {
				next, err = unix.Openat(root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
		}
		if next != at {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// step goes from the open folder at to name in it. At a symlink it stays, and returns the
// target.
func step(root, at int, name string, missing *NewFolder) (next int, target string, err error) {
	switch name {
	case "", ".":
		return at, "", nil
	case "..":
		if top, err := sameFile(root, at); err != nil || top {
			return at, "", err
		}
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	next, err = unix.Openat(at, name, flags, 0)
	switch {
	case errors.Is(err, unix.ENOENT) && missing != nil:
		if err := missing.Make(at, name); err != nil {
			return -1, "", err
		}
		next, err = unix.Openat(at, name, flags, 0)
		return next, "", err
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		target, notLink := os.Readlink(fmt.Sprintf("/proc/self/fd/%d/%s", at, name))
		if notLink != nil {
			return -1, "", unix.ENOTDIR
		}
		return at, target, nil
	}
	return next, "", err
}

// A NewFolder says what a folder is like that is made.
type NewFolder struct {
	UID, GID int
	Mode     uint32
	Mtime    time.Time // also of the folder that it is made in; zero for now
}

// PlainFolder is root's, and open to all for reading.
func PlainFolder() *NewFolder { return &NewFolder{Mode: 0o755} }

// Make makes the folder in the open folder at, whatever the umask.
func (n *NewFolder) Make(at int, name string) error {
	if err := unix.Mkdirat(at, name, 0o700); err != nil {
		return err
	}
	if err := unix.Fchownat(at, name, n.UID, n.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := unix.Fchmodat(at, name, n.Mode, 0); err != nil || n.Mtime.IsZero() {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(n.Mtime.UnixNano())}
	for _, name := range []string{name, "."} {
		if err := unix.UtimesNanoAt(at, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return nil
}

func sameFile(a, b int) (bool, error) {
	var x, y unix.Stat_t
	err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y))
	return x.Dev == y.Dev && x.Ino == y.Ino, err
}
