package engine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// A room is what a filesystem had left when a build began.
type room struct {
	path          string
	bytes, inodes int64
}

// roomOf returns what is left where path is, or will be.
func roomOf(path string) room {
	st := statfs(path)
	return room{path, int64(st.Bavail) * st.Bsize, int64(st.Ffree)}
}

// statfs asks for the filesystem of path, or of the folder where it is to be made.
func statfs(path string) (st unix.Statfs_t) {
	for unix.Statfs(path, &st) != nil && path != filepath.Dir(path) {
		path = filepath.Dir(path)
	}
	return st
}

// A space is the filesystems of a build, as rooms.
type space []room

func spaceOf(paths ...string) (s space) {
	for _, path := range paths {
		s = append(s, roomOf(path))
	}
	return s
}

// explain is that of the room which has the least left by now.
func (before space) explain(err error) error {
	if err == nil {
		return nil
	}
	return before.tightest().explain(err)
}

func (before space) tightest() room {
	return slices.MinFunc(before, func(a, b room) int { return cmp.Compare(roomOf(a.path).bytes, roomOf(b.path).bytes) })
}

// An explainedError is an error of the machine's that has been explained.
type explainedError struct {
	err error
	why string
}

func (e *explainedError) Error() string { return e.err.Error() + ": " + e.why }
func (e *explainedError) Unwrap() error { return e.err }

// explain adds to an error of the machine's what it means for the build: what is
// full, how much the build found there when it began, and what helps. The build
// has given back what it took by the time that its user reads this.
func (before room) explain(err error) error {
	var explained *explainedError
	if err == nil || errors.As(err, &explained) {
		return err
	}
	var why string
	// Overlayfs that cannot make its work folder mounts read-only, and says nothing.
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) && statfs(before.path).Flags&unix.ST_RDONLY == 0
	switch {
	case full && before.fewInodes():
		why = fmt.Sprintf("the filesystem of %s has no inodes left: the build needs more than the %d that were free when it began; `layerbuild prune` makes room", before.path, before.inodes)
	case full:
		why = fmt.Sprintf("the filesystem of %s is full: the build needs more than the %s that were free when it began; `layerbuild prune` makes room", before.path, units.HumanSize(float64(before.bytes)))
	case errors.Is(err, unix.EDQUOT):
		why = fmt.Sprintf("the disk quota on the filesystem of %s is used up: the build needs more; `layerbuild prune` makes room", before.path)
	case errors.Is(err, unix.EROFS):
		why = fmt.Sprintf("the filesystem of %s is read-only: mount it writable, or name another folder with --state-dir or --oci-dir", before.path)
	case errors.Is(err, os.ErrPermission) && (os.Geteuid() != 0 || userns.RunningInUserNS()):
		why = "this user may not: run as root, or as the owner"
	default:
		return err
	}
	return &explainedError{err, why}
}

// fewInodes tells whether it is inodes that are short, and not bytes: each file
// takes a block at least.
func (before room) fewInodes() bool {
	return before.inodes > 0 && before.inodes < before.bytes/minBlock
}

const minBlock = 16 << 10

// short says, after a run has failed, what it may have failed of; "" if there is
// room enough.
func (b *Builder) short() string {
	before := b.before.tightest()
	now := roomOf(before.path)
	switch {
	case now.bytes < 1<<20:
		return fmt.Sprintf("the filesystem of %s is full: %s were free when the build began", now.path, units.HumanSize(float64(before.bytes)))
	case now.inodes > 0 && now.inodes < 16:
		return fmt.Sprintf("the filesystem of %s has no inodes left: %d were free when the build began", now.path, before.inodes)
	}
	return ""
}

// rights says what this process may do on this machine, since that was started: what
// was tried out needs no other trial while they are the same.
func rights() string {
	var text strings.Builder
	for _, file := range []string{"sys/kernel/random/boot_id", "self/uid_map", "self/attr/current"} {
		content, _ := os.ReadFile(filepath.Join("/proc", file)) // there is no label without AppArmor or SELinux
		text.Write(content)
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		switch name, value, _ := strings.Cut(line, ":"); name {
		case "Uid", "CapEff", "Seccomp":
			text.WriteString(value)
		}
	}
	return strings.Join(strings.Fields(text.String()), " ")
}

// filesystem names the one that a folder is on.
func filesystem(dir string) string {
	var st unix.Stat_t
	_ = unix.Stat(dir, &st) // what it is needed for will fail too
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}
