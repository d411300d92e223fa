package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// points are the mountpoints of a Store: folders in memory, which are made and removed
// faster than those on a disk. They lie over a folder in tmp/, which is all that others
// see of them.
type points struct {
	mu    sync.Mutex
	dir   string   // the folder in tmp/; "" while there are none
	empty *os.File // that folder itself, below the memory
	locks [2]*os.File
	last  int
}

// mountpoint makes a mountpoint. It returns an empty folder on the Store's filesystem
// as well, which any number of mounts may share.
func (s *Store) mountpoint() (point, empty string, err error) {
	p := &s.points
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		if err := s.makePoints(); err != nil {
			return "", "", fmt.Errorf("make mountpoints in memory: %w", err)
		}
	}
	p.last++
	point = filepath.Join(p.dir, strconv.Itoa(p.last))
	return point, fmt.Sprintf("/proc/self/fd/%d", p.empty.Fd()), os.Mkdir(s.reach(point), 0o755)
}

// makePoints does it once more if another process, that sees what is mounted here, has
// swept the folder before its memory was locked.
func (s *Store) makePoints() error {
	for {
		err := s.tryPoints()
		if !errors.Is(err, ErrLocked) && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
}

func (s *Store) tryPoints() error {
	lock, err := s.dir.NewFolder(statedir.Overlays, locks.Shared)
	if err != nil {
		return err
	}
	dir, p := lock.Name(), &s.points
	p.dir, p.locks[0] = dir, lock
	err = s.do(func() (err error) {
		if err := os.Chmod(dir, 0o755); err != nil { // a root folder's mode, if it is the only one
			return err
		}
		if p.empty, err = os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		return unix.Mount("layerbuild", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700")
	})
	if err == nil { // Sweep sees this one here, and the other one elsewhere
		p.locks[1], err = lockFolder(s.reach(dir), locks.Shared)
	}
	if err == nil && locks.Current(lock, s.reach(dir)) {
		err = ErrNotFound // the memory is gone
	}
	if err != nil {
		return errors.Join(err, p.drop(s))
	}
	return nil
}

// dropPoints removes all mountpoints. What is mounted still goes when nobody uses it.
func (s *Store) dropPoints() error {
	p := &s.points
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" {
		return nil
	}
	return p.drop(s)
}

func (p *points) drop(s *Store) error {
	err := s.do(func() error { return unix.Unmount(p.dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH) })
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // it is not mounted
		err = os.Remove(p.dir)
	}
	if errors.Is(err, fs.ErrNotExist) { // swept
		err = nil
	}
	for _, f := range []*os.File{p.empty, p.locks[0], p.locks[1]} {
		f.Close() // which may be nil
	}
	p.dir, p.empty, p.locks = "", nil, [2]*os.File{}
	return err
}

// mount mounts a stack and returns where. One more lower folder, an empty one, goes below
// all: overlayfs wants at least one, and two if there is no upper folder. A single folder
// could be bound instead, but only overlayfs hides its own attributes.
func (s *Store) mount(k stack) (point string, err error) {
	point, empty, err := s.mountpoint()
	if err != nil {
		return "", err
	}
	k.lowers = append(k.lowers, empty)
	if len(k.lowers) == 1 && k.upper == "" {
		k.lowers = append(k.lowers, point)
	}
	if err := s.do(func() error { return k.mount(point) }); err != nil {
		return "", errors.Join(err, os.Remove(s.reach(point)))
	}
	return point, nil
}

// leave unmounts and removes a mountpoint, whoever uses it.
func (s *Store) leave(point string) error {
	if err := s.detach(point); err != nil {
		return err
	}
	return os.Remove(s.reach(point))
}
