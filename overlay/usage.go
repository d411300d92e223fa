package overlay

import (
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of st_blocks, whatever the filesystem (inode(7)).
const blockSize = 512

// usage adds up what files take on disk, on one filesystem.
type usage struct {
	bytes, inodes int64
	linked        map[uint64]bool // inodes with more than one name that were counted
}

func (u *usage) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if u.linked[st.Ino] {
			return
		}
		if u.linked == nil {
			u.linked = map[uint64]bool{}
		}
		u.linked[st.Ino] = true
	}
	u.bytes += st.Blocks * blockSize
	u.inodes++
}

// addTree adds all that is in a folder, and the folder.
func (u *usage) addTree(path string) error {
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		u.add(&st)
		return nil
	})
}
