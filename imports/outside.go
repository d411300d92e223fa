package imports

import (
	"errors"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
)

// outside is what a fill keeps of a folder of this machine that it fills; see
// CopyOptions.Outside.
type outside struct {
	where string // the folder

	mu   sync.Mutex
	made map[fileID]string // of files with several names: the first that was made
}

// A fileID tells files of the source apart.
type fileID struct{ dev, ino uint64 }

// dropLink removes what is at p below the root if that is a symlink. No folder above it is
// one: those were replaced before.
func (f *fill) dropLink(p string) error {
	dir, err := inroot.WalkFolder(f.root, path.Dir(p), nil)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	err = unix.Fstatat(dir, path.Base(p), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return nil // what else is there, the making of the folder tells
	}
	return unix.Unlinkat(dir, path.Base(p), 0)
}

// hardlink makes the name in the open folder to a link to what was made of another name of
// the file in. It reports false for the first name, which is about to be made at p below the
// root. The caller holds the lock.
func (f *fill) hardlink(in, to int, name, p string) (linked bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil || st.Nlink < 2 {
		return false, err
	}
	file := fileID{st.Dev, st.Ino}
	first, ok := f.outside.made[file]
	if !ok {
		f.outside.made[file] = p
		return false, nil
	}
	dir, err := inroot.WalkFolder(f.root, path.Dir(first), nil)
	if err != nil {
		return false, err
	}
	defer unix.Close(dir)
	err = unix.Linkat(dir, path.Base(first), to, name, 0)
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EPERM) { // too many, or a filesystem without them
		return false, nil
	}
	return err == nil, err
}
