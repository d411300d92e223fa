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
		u.addPath(path)
		return nil
	})
}

// addPath adds one file, unless it is gone.
func (u *usage) addPath(path string) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil {
		u.add(&st)
	}
}
