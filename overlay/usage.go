package overlay

import (
	"context"
	"fmt"
	"os"

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

// measure adds up a folder and all that is in it.
func measure(ctx context.Context, path string) (usage, error) {
	var u usage
	dir, err := openFolder(unix.AT_FDCWD, path)
	if err != nil {
		return u, err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return u, fmt.Errorf("stat %s: %w", path, err)
	}
	u.add(&st)
	if err := u.addFolder(ctx, dir); err != nil {
		return u, fmt.Errorf("measure %s: %w", path, err)
	}
	return u, nil
}

func (u *usage) addFolder(ctx context.Context, dir *os.File) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		u.add(&st)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		sub, err := openFolder(int(dir.Fd()), name)
		if err != nil {
			return err
		}
		err = u.addFolder(ctx, sub)
		sub.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
