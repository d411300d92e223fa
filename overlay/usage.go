package overlay

import "golang.org/x/sys/unix"

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
