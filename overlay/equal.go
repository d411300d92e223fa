package overlay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// sameAttributes reports whether type, mode, owner and extended attributes are those
// of what the parents have.
func (e *entry) sameAttributes() (bool, error) {
	a, b := &e.st, e.below
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid {
		return false, nil
	}
	of, err := xattrs(e.path())
	if err != nil {
		return false, err
	}
	other, err := xattrs(e.lowPath())
	return maps.Equal(of, other), err
}

// equal reports whether an entry that is no folder is what the parents have there.
func (n *normalizer) equal(e *entry) (bool, error) {
	a, b := &e.st, e.below
	if b == nil || a.Size != b.Size || a.Mtim != b.Mtim && n.clamp(a.Mtim) != b.Mtim {
		return false, nil
	}
	same, err := e.sameAttributes()
	if err != nil || !same {
		return false, err
	}
	if a.Nlink > 1 {
		return n.links.equal(inodeOf(a), func() (bool, error) { return n.sameData(e) })
	}
	return n.sameData(e)
}

// sameData compares what two entries of one type and size hold.
func (n *normalizer) sameData(e *entry) (bool, error) {
	switch a, b := &e.st, e.below; a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return n.sameContent(e)
	case unix.S_IFLNK:
		to, err := os.Readlink(e.path())
		if err != nil {
			return false, err
		}
		other, err := os.Readlink(e.lowPath())
		return to == other, err
	default:
		return a.Rdev == b.Rdev, nil
	}
}

// sameContent compares two files of one size.
func (n *normalizer) sameContent(e *entry) (bool, error) {
	a, err := os.Open(e.path())
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(e.lowPath())
	if err != nil {
		return false, err
	}
	defer b.Close()
	x, y := make([]byte, 128<<10), make([]byte, 128<<10)
	for {
		if err := n.ctx.Err(); err != nil {
			return false, err
		}
		k, err := io.ReadFull(a, x)
		l, lerr := io.ReadFull(b, y)
		if !bytes.Equal(x[:k], y[:l]) {
			return false, nil
		}
		if err == nil && lerr == nil {
			continue
		}
		for _, err := range []error{err, lerr} {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		return true, nil
	}
}

// An inode tells files of one tree apart.
type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{st.Dev, st.Ino} }

// links are the files of an upper folder that have several names, found when the first
// of them may equal the parents'.
type links struct {
	scan func() (map[inode]*link, error)

	mu    sync.Mutex
	files map[inode]*link
}

// A link is what is known of a file with several names.
type link struct {
	names    uint64
	nlink    uint64
	below    inode // what the parents have under the first name
	apart    bool  // they have something else, or nothing, under another one
	compared bool
	same     bool
}

// equal reports whether all names of a file are names of one file in the parents, which
// compare says holds the same. It compares once a file.
func (l *links) equal(file inode, compare func() (bool, error)) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.files == nil {
		if l.files, err = l.scan(); err != nil {
			return false, err
		}
	}
	of := l.files[file]
	if of == nil || of.apart || of.names != of.nlink {
		return false, nil
	}
	if !of.compared {
		of.same, err = compare()
		of.compared = err == nil
	}
	return of.same, err
}

// scanLinks finds the files in the folder up that have several names. Others may
// remove something in it meanwhile, but none of these.
func scanLinks(ctx context.Context, up, low *os.File) (map[inode]*link, error) {
	files := map[inode]*link{}
	var scan func(up, low *os.File) error
	scan = func(dir, low *os.File) error {
		up, err := openFolder(int(dir.Fd()), ".") // whose position nobody else moves
		if err != nil {
			return err
		}
		defer up.Close()
		names, err := up.Readdirnames(-1)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			st, err := statIn(up, name)
			if err != nil || st == nil || isWhiteout(st) || !isFolder(st) && st.Nlink == 1 {
				if err != nil {
					return err
				}
				continue
			}
			below, err := statIn(low, name)
			if err != nil {
				return err
			}
			if !isFolder(st) {
				note(files, st, below)
			} else if err := inBoth(up, low, name, isFolder(below), scan); err != nil {
				return err
			}
		}
		return nil
	}
	return files, scan(up, low)
}

// note adds a name to a file.
func note(files map[inode]*link, st, below *unix.Stat_t) {
	of := files[inodeOf(st)]
	if of == nil {
		of = &link{nlink: uint64(st.Nlink), apart: below == nil} //nolint:unconvert // arm64 has 32 bits
		if below != nil {
			of.below = inodeOf(below)
		}
		files[inodeOf(st)] = of
	}
	of.names++
	of.apart = of.apart || below == nil || inodeOf(below) != of.below
}

// inBoth calls do with a folder of up, unless it is gone, and that of low, if there is one.
func inBoth(up, low *os.File, name string, both bool, do func(up, low *os.File) error) error {
	in, err := openFolder(int(up.Fd()), name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	var of *os.File
	if both {
		if of, err = openFolder(int(low.Fd()), name); err != nil {
			return err
		}
		defer of.Close()
	}
	return do(in, of)
}
