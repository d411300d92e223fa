package imports

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
)

// CopyOptions say how Copy names and dresses what it makes.
type CopyOptions struct {
	// Name is what the source is called in a folder that it is copied into; the
	// last element of its path by default.
	Name string

	Mode     *fs.FileMode // of files; folders keep theirs
	UID, GID *int         // of all that is copied; 0 by default, or the owner with Source.Owners
	Epoch    time.Time    // mtime of all that is copied or made, and of the folder that it comes into; now by default

	// Whole has Mode count for folders as well, and gives the folders that are made on
	// the way to dest the mode and owner, as COPY of a Dockerfile does.
	Whole bool

	// Outside is for a root that is no image but a folder of this machine. What of a
	// stranger's files could do harm there is left out: setuid and setgid bits, write
	// permission for all, extended attributes, among which are capabilities. A device is
	// an error. A symlink that is there where the tree has a folder is replaced, since an
	// earlier copy may have left it. Hard links stay hard links.
	Outside bool
}

// Copy copies src, whose tree is t, to dest in the root filesystem at root.
// Symlinks on the way are resolved as if root was "/"; folders that are missing
// are made, 0755 and root's. What is copied are the files that t names, with the
// modes and extended attributes that it says; a source that has become other
// gives a ChangedError, possibly after some of it was copied.
//
// As stacker has it:
//   - A file goes to dest. If dest ends in a slash or is a folder, it goes into
//     that folder. It replaces a file or symlink, never a folder.
//   - A folder becomes dest. If dest ends in a slash, it goes into that folder.
//     It merges with a folder that is there, also through a symlink to one.
//   - The content of a folder (Source.Content) goes into dest.
//
// A folder that is there at the very place keeps its mode and owner; folders
// below it get what the tree says.
func (s *Store) Copy(ctx context.Context, src Source, t Tree, root, dest string, o CopyOptions) error {
	entries, err := s.Entries(t.Digest)
	if err != nil {
		return err
	}
	s.forget()
	if o.Outside {
		if entries, err = harmless(entries); err != nil {
			return err
		}
	}
	source, st, err := s.openSource(src)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	if st.isDir() != t.Dir {
		return &ChangedError{src.Path}
	}
	rootfd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return named(root, err)
	}
	defer unix.Close(rootfd)

	f := fill{src: src, source: source, root: rootfd, share: -1, mtime: o.Epoch, replace: true}
	if o.Outside {
		f.outside = &outside{where: root, made: map[fileID]string{}}
	}
	if o.Epoch.IsZero() {
		f.mtime = time.Now()
	}
	f.own(o)
	if f.at, err = target(rootfd, src, t, dest, o.Name); err != nil {
		return err
	}
	fresh, err := f.prepare(t)
	if err != nil {
		return f.problem(".", err)
	}
	if t.Dir && (!fresh || src.Content) {
		entries = entries[1:]
	}
	if o.UID != nil {
		entries = withoutOwners(entries)
	}
	if err := f.run(ctx, entries, nil); err != nil || o.Epoch.IsZero() {
		return err
	}
	return f.date(t)
}

// date gives the folder that the tree came into the time of all that is copied: a step that
// sees it should not see when that was.
func (f *fill) date(t Tree) error {
	at := f.at
	if !t.Dir {
		at = path.Dir(at)
	}
	fd, err := inroot.WalkFolder(f.root, at, nil)
	if err == nil {
		defer unix.Close(fd)
		err = futimens(fd, f.times())
	}
	return err
}

// withoutOwners returns entries that become the owner's that is asked for.
func withoutOwners(entries []Entry) []Entry {
	entries = slices.Clone(entries)
	for i := range entries {
		entries[i].Owner = nil
	}
	return entries
}

// folder returns what the folders are like that are made on the way.
func (o CopyOptions) folder() *inroot.NewFolder {
	f := inroot.PlainFolder()
	f.Mtime = o.Epoch
	if !o.Whole {
		return f
	}
	if o.UID != nil {
		f.UID = *o.UID
	}
	if o.GID != nil {
		f.GID = *o.GID
	}
	if o.Mode != nil {
		f.Mode = modeBits(*o.Mode)
	}
	return f
}

// harmless returns entries as CopyOptions.Outside has them.
func harmless(entries []Entry) ([]Entry, error) {
	var kept []Entry
	for _, e := range entries {
		if e.Type == Char || e.Type == Block {
			return nil, fmt.Errorf("%q is a device, which is not made outside of an image", e.Path)
		}
		e.Mode &^= 0o6002
		e.Xattrs = nil
		kept = append(kept, e)
	}
	return kept, nil
}

// own takes over owner and mode.
func (f *fill) own(o CopyOptions) {
	if o.UID != nil {
		f.uid = *o.UID
	}
	if o.GID != nil {
		f.gid = *o.GID
	}
	f.on, f.modeAll = o.folder(), o.Whole
	if o.Mode != nil {
		mode := modeBits(*o.Mode)
		f.mode = &mode
	}
}

// modeBits returns a mode as chmod(2) has it.
func modeBits(m fs.FileMode) uint32 {
	mode := uint32(m & 0o7777)
	for bit, has := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&has != 0 {
			mode |= bit
		}
	}
	return mode
}

// target returns the path in the root filesystem at which the tree's root shall be.
func target(root int, src Source, t Tree, dest, name string) (string, error) {
	if name == "" {
		name = path.Base(path.Clean(src.Path))
	}
	if src.Content {
		return dest, nil
	}
	into := strings.HasSuffix(dest, "/")
	if !into && !t.Dir {
		fd, err := inroot.WalkFolder(root, dest, nil)
		if err == nil {
			unix.Close(fd)
			into = true
		} else if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return "", fmt.Errorf("%s in the image: %w", dest, err)
		}
	}
	if into {
		return path.Join(dest, name), nil
	}
	return dest, nil
}

// prepare makes the folder that the tree goes into, and the tree's own root if it is a folder.
// It reports whether that is fresh.
func (f *fill) prepare(t Tree) (fresh bool, err error) {
	if f.outside != nil && t.Dir {
		if err := f.dropLink(f.at); err != nil {
			return false, err
		}
	}
	if !t.Dir {
		fd, err := inroot.WalkFolder(f.root, path.Dir(f.at), f.on)
		closeFd(fd)
		return true, err
	}
	fd, err := inroot.WalkFolder(f.root, f.at, nil)
	if errors.Is(err, unix.ENOENT) {
		fresh = true
		fd, err = inroot.WalkFolder(f.root, f.at, f.on)
	}
	closeFd(fd)
	return fresh, err
}
