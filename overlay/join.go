package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func (s *Staged) join(ctx context.Context, parent digest.Digest) (err error) {
	m := s.m
	if m.parent != "" || m.dir == "" {
		return errors.New("it is joined or dropped already")
	}
	if m.held, err = m.store.use(ctx, parent); err != nil {
		return err
	}
	m.parent = parent
	view, err := m.store.view(parent)
	if err != nil {
		return err
	}
	defer view.Release()
	low, err := openFolder(unix.AT_FDCWD, view.Root)
	if err != nil {
		return err
	}
	defer low.Close()
	up, err := openFolder(unix.AT_FDCWD, s.Root())
	if err != nil {
		return err
	}
	defer up.Close()
	if err := s.root.passes(low); err != nil {
		return err
	}
	j := &joiner{ctx: ctx, model: filepath.Join(m.dir, "whiteout")}
	if err := j.folder(&s.root, up, low); err != nil {
		return err
	}
	if err := os.Remove(j.model); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// passes fails with ErrApart if the parents have a file, such as a symlink, where a
// path led through.
func (n *node) passes(low *os.File) error {
	for name, c := range n.children {
		if !c.passed && len(c.children) == 0 {
			continue
		}
		below, err := openFolder(int(low.Fd()), name)
		switch {
		case err == nil:
			err = c.passes(below)
			below.Close()
		case errors.Is(err, unix.ENOENT):
			err = nil
		case !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP):
		case c.passed:
			err = fmt.Errorf("%w: %q is no folder there", ErrApart, name)
		default: // the layer replaced it first
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A joiner gives a staged layer, beside the merged parents, the form that overlayfs
// gives to one that is unpacked on a mount of them.
type joiner struct {
	ctx   context.Context
	model string // the file that all whiteouts are links to, as overlayfs's are
}

// folder joins what is in the folder up. low is what the parents have of it, or nil.
func (j *joiner) folder(n *node, up, low *os.File) error {
	if err := j.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(up.Fd()), &st); err != nil {
		return err
	}
	for name, c := range n.children {
		if err := j.one(c, name, up, low); err != nil {
			return err
		}
	}
	if n.emptied && low != nil {
		if err := j.empty(n, up, low); err != nil {
			return err
		}
	}
	if !n.named && low != nil {
		return adopt(up, low)
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}
	return unix.UtimesNanoAt(int(up.Fd()), ".", times, 0)
}

// one joins one name in the folder up.
func (j *joiner) one(c *node, name string, up, low *os.File) error {
	if c.kind == other || c.kind == nothing && low == nil {
		return nil // whatever the parents have is hidden, or there is nothing
	}
	below, err := statIn(low, name)
	switch {
	case err != nil || c.kind == nothing && below == nil:
		return err
	case c.kind == nothing && c.gone:
		return j.whiteout(up, name)
	case c.kind == nothing:
		if is, err := c.isCopied(low, name); !is {
			return err
		}
		err = unix.Mkdirat(int(up.Fd()), name, 0o700)
	case c.gone && isFolder(below):
		err = unix.Lsetxattr(at(up, name), opaque, []byte("y"), 0)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	in, err := openFolder(int(up.Fd()), name)
	if err != nil {
		return err
	}
	defer in.Close()
	var of *os.File
	if isFolder(below) && !c.gone {
		if of, err = openFolder(int(low.Fd()), name); err != nil {
			return err
		}
		defer of.Close()
	}
	if (c.invented || c.kind == nothing) && low != nil && (handsDown(in) || of == nil && handsDown(low)) {
		return fmt.Errorf("%w: the folder %q would inherit something else there", ErrApart, name)
	}
	return j.folder(c, in, of)
}

// isCopied tells whether a folder that the parents have under a name, or one in it, was
// copied. A path that leads further than their folders do copies none of them.
func (n *node) isCopied(low *os.File, name string) (bool, error) {
	in, err := openFolder(int(low.Fd()), name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil || n.copied {
		in.Close()
		return err == nil, err
	}
	defer in.Close()
	for name, c := range n.children {
		if c.gone {
			continue
		}
		if is, err := c.isCopied(in, name); is || err != nil {
			return is, err
		}
	}
	return false, nil
}

// handsDown tells whether what is made in a folder gets attributes of it, and so
// whether one that was made has got some: a group, or an access control list.
func handsDown(dir *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil || st.Mode&unix.S_ISGID != 0 {
		return true
	}
	_, err := unix.Fgetxattr(int(dir.Fd()), "system.posix_acl_default", nil)
	return err == nil
}

// empty removes what the parents have in a folder and the layer knows nothing of.
func (j *joiner) empty(n *node, up, low *os.File) error {
	names, err := low.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if n.children[name] == nil {
			if err := j.whiteout(up, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// whiteout makes a whiteout. They are links to one another, as overlayfs's are (since
// Linux 5.8), and so take one inode.
func (j *joiner) whiteout(dir *os.File, name string) error {
	for {
		err := unix.Linkat(unix.AT_FDCWD, j.model, int(dir.Fd()), name, 0)
		switch {
		case errors.Is(err, unix.ENOENT):
			err = unix.Mknod(j.model, unix.S_IFCHR, 0)
		case errors.Is(err, unix.EMLINK):
			err = os.Remove(j.model) // and make another
		case err == nil:
			return nil
		}
		if err != nil {
			return fmt.Errorf("whiteout of %q: %w", name, err)
		}
	}
}

// adopt gives a folder that the layer does not name the attributes that it has in the
// parents.
func adopt(up, low *os.File) error {
	names, err := listXattrs(at(low, "."))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, isPrivate) { // in the snapshot it has another name
		return fmt.Errorf("%w: a folder has an attribute of overlayfs's", ErrApart)
	}
	return copyAttributes(at(low, "."), at(up, "."))
}
