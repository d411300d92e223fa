package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// ErrFilesystem says that overlayfs works, but does not write to a filesystem.
var ErrFilesystem = errors.New("this filesystem cannot hold snapshots")

// Supported says whether the store's folder is on a filesystem that can hold it, by
// mounting something in it and removing a file there, which takes a millisecond. The
// error gives the reason and what to do about it; it is an ErrFilesystem if another
// filesystem would do.
func (s *Store) Supported() error {
	lock, err := s.dir.NewFolder(statedir.Overlays, locks.Shared)
	if err != nil {
		return err
	}
	defer lock.Close()
	err = s.try(lock.Name())
	if removal := os.RemoveAll(lock.Name()); err == nil { // otherwise it fails for the same reason
		err = removal
	}
	if err != nil {
		return unsupported(s.Dir(), err)
	}
	return nil
}

// try mounts overlayfs below dir and removes a file of the lower folder.
func (s *Store) try(dir string) error {
	k := stack{
		lowers: []string{filepath.Join(dir, "low")},
		upper:  filepath.Join(dir, "fs"), work: filepath.Join(dir, "work"),
	}
	for _, f := range []string{k.lowers[0], k.upper, k.work} {
		if err := os.Mkdir(f, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(k.lowers[0], "file"), nil, 0o600); err != nil {
		return err
	}
	point, err := s.mount(k)
	if err != nil {
		return err
	}
	err = os.Remove(filepath.Join(s.reach(point), "file"))
	if err = errors.Join(err, s.leave(point)); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(k.upper, "file"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return errors.New("a removed file leaves no whiteout")
	}
	return nil
}

// unsupported explains an error of try.
func unsupported(dir string, err error) error {
	advice := ": put --state-dir on a local ext4, xfs or btrfs disk"
	var st unix.Statfs_t
	switch {
	case unix.Statfs(dir, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC:
		advice = ": the folder is itself on overlayfs, as in a container; put --state-dir on a volume or another disk"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS):
		return fmt.Errorf("overlayfs does not work in %s: %w", dir, err) // it is not overlayfs's fault
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("overlayfs does not work in %s: %w: the kernel has none: run `modprobe overlay`", dir, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("overlayfs does not work in %s: %w: mount is forbidden here, by a seccomp filter or by AppArmor, as in a container: "+
			"start that with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`, or build on the host", dir, err)
	}
	return &filesystemError{fmt.Errorf("overlayfs does not work in %s: %w%s", dir, err, advice)}
}

// A filesystemError is an ErrFilesystem in other words.
type filesystemError struct{ error }

func (e *filesystemError) Is(target error) bool { return target == ErrFilesystem }
func (e *filesystemError) Unwrap() error        { return e.error }
