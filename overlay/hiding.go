package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// entries returns what is in the folder up, which is e, and gives what is gone of the
// parents' folder low its one form: whiteouts, or an opaque folder.
func (n *normalizer) entries(e *entry, up, low *os.File) ([]*entry, error) {
	marked, err := isOpaque(at(up, "."))
	if err != nil {
		return nil, err
	}
	names, err := up.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	f := &hiding{e: e, up: up, low: low, hides: marked || e.hides, here: make(map[string]*entry, len(names))}
	whiteouts := 0
	for _, name := range names {
		c, err := f.add(name)
		if err != nil {
			return nil, err
		}
		if c.isWhiteout() && c.below != nil {
			whiteouts++
		}
	}
	opaque := false
	if low != nil && (f.hides || whiteouts > manyNames) {
		if opaque, err = f.settle(n); err != nil {
			return nil, err
		}
	}
	return f.all, f.mark(marked, opaque)
}

// A hiding is a folder of which something may be hidden.
type hiding struct {
	e       *entry
	up, low *os.File
	hides   bool // nothing of low is seen through it
	all     []*entry
	here    map[string]*entry
}

// add adds an entry that is in the folder.
func (f *hiding) add(name string) (*entry, error) {
	c := &entry{up: f.up, low: f.low, name: name, rel: filepath.Join(f.e.rel, name), hides: f.hides && f.low != nil}
	f.all, f.here[name] = append(f.all, c), c
	if err := c.stat(); err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	return c, nil
}

// settle reports whether the folder is to be opaque. If not, it makes the whiteouts that
// are missing in one that is.
func (f *hiding) settle(n *normalizer) (opaque bool, err error) {
	names, err := f.low.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	gone := func(name string) bool {
		c := f.here[name]
		return c == nil && f.hides || c != nil && c.isWhiteout()
	}
	if len(names) > manyNames && f.e.name != "." && !slices.ContainsFunc(names, func(name string) bool { return !gone(name) }) {
		return true, nil
	}
	var last string
	for _, name := range names {
		if f.here[name] != nil || !f.hides {
			continue
		}
		if err := n.whiteout(f.up, name, last); err != nil {
			return false, fmt.Errorf("whiteout of %q: %w", name, err)
		}
		if _, err := f.add(name); err != nil {
			return false, err
		}
		last = name
	}
	return false, nil
}

// whiteout makes a whiteout, by a link to another of the folder if there is one: that is
// many times faster than to make a file. It inherits nothing of the folder.
func (n *normalizer) whiteout(up *os.File, name, other string) error {
	if other != "" {
		err := unix.Linkat(int(up.Fd()), other, int(up.Fd()), name, 0)
		if !errors.Is(err, unix.EMLINK) {
			return err
		}
	}
	outside := filepath.Join(n.dir, fmt.Sprint("whiteout-", n.whiteouts.Add(1)))
	err := unix.Mknod(outside, unix.S_IFCHR, 0)
	if err == nil {
		err = unix.Lchown(outside, 0, 0)
	}
	if err == nil {
		err = unix.Renameat(unix.AT_FDCWD, outside, int(up.Fd()), name)
	}
	return err
}

// mark makes the folder opaque, or takes the mark from it. overlayfs marks many a folder
// that has nothing to hide, only because it is new.
func (f *hiding) mark(is, should bool) error {
	if should {
		for _, c := range f.all {
			c.low, c.below, c.hides = nil, nil, false
		}
	}
	switch {
	case should && !is:
		return unix.Lsetxattr(at(f.up, "."), opaque, []byte("y"), 0)
	case is && !should:
		return unix.Lremovexattr(at(f.up, "."), opaque)
	}
	return nil
}

// maxLinks is how many whiteouts are links to one file: any filesystem allows as many.
const maxLinks = 30_000

// linkWhiteouts makes the whiteouts of a folder links to one file, however many files
// they have been, and counts it: a filesystem that is made of the folder shows links.
func (n *normalizer) linkWhiteouts(up *os.File, whiteouts []*entry) error {
	slices.SortFunc(whiteouts, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	for part := range slices.Chunk(whiteouts, maxLinks) {
		if err := n.relink(up, part); err != nil {
			return fmt.Errorf("whiteout: %w", err)
		}
		if err := part[0].setTime(unix.Timespec{}); err != nil { // no tar says it; a filesystem does
			return err
		}
		n.mu.Lock()
		n.usage.inodes++
		n.mu.Unlock()
	}
	return nil
}

// relink makes whiteouts names of one file, which has no other, and is root's.
func (n *normalizer) relink(up *os.File, whiteouts []*entry) error {
	first := whiteouts[0]
	if err := first.stat(); err != nil {
		return err
	}
	own := first.st.Mode == unix.S_IFCHR && first.st.Uid == 0 && first.st.Gid == 0 && int(first.st.Nlink) == len(whiteouts)
	if own && !slices.ContainsFunc(whiteouts, func(e *entry) bool { return e.st.Ino != first.st.Ino }) {
		return nil
	}
	var last string
	for _, e := range whiteouts {
		if err := unix.Unlinkat(int(up.Fd()), e.name, 0); err != nil {
			return err
		}
		if err := n.whiteout(up, e.name, last); err != nil {
			return err
		}
		last = e.name
	}
	return nil
}
