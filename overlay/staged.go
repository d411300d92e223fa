package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrApart says that a layer cannot be made apart from those below it: what it is
// depends on them.
var ErrApart = errors.New("it depends on the layers below it")

// A Staged is a layer that is unpacked while those below it are not there yet, and
// joined to them when they are. What comes of it is what unpacking it on a mount of
// them gives, down to the whiteouts and times; where that cannot be had, ErrApart tells.
// It belongs to one goroutine.
//
//	staged, err := store.Stage(ctx)
//	defer staged.Drop()
//	// ... unpack it in staged.Root(), and tell staged of it ...
//	m, err := staged.Join(ctx, parent)
//
// It is told of each entry of the layer before that is unpacked. False says that it
// would end in ErrApart. Paths are clean and begin at the root, which is "". All
// names are kept in memory.
type Staged struct {
	m    *Mutable
	root node
}

// Stage begins a layer whose parent is not there yet.
func (s *Store) Stage(ctx context.Context) (*Staged, error) {
	m, err := s.Prepare(ctx, "")
	if err != nil {
		return nil, err
	}
	return &Staged{m, node{kind: folder}}, nil
}

// Root is the folder to unpack the layer in: all but its whiteouts.
func (s *Staged) Root() string { return s.m.Upper() }

// Drop removes the layer. It may be called more than once. After Join it does what
// that of the Mutable does.
func (s *Staged) Drop() error { return s.m.Drop() }

// Join puts the layer on its parent. It fails with ErrApart, and with ErrNotFound and
// ErrInvalid, for the parent or one below it; then the layer is only to be dropped.
func (s *Staged) Join(ctx context.Context, parent digest.Digest) (*Mutable, error) {
	if err := s.join(ctx, parent); err != nil {
		return nil, fmt.Errorf("put a layer on those below it: %w", err)
	}
	return s.m, nil
}

// A node is what a layer has done to a path so far.
type node struct {
	children map[string]*node
	kind     kind // of what the layer has there now
	named    bool // the attributes of the folder are the layer's
	invented bool // it was made on the way to something in it, as a folder without attributes of its own
	passed   bool // a path led through it when no one but the parents could have a folder there
	copied   bool // a folder of the parents, if there is one, is in the difference, too, with its attributes
	gone     bool // what the parents have there was removed or replaced
	emptied  bool // what the parents have in it is gone, wherever there is no child that tells
}

type kind uint8

const (
	nothing kind = iota
	folder
	other
)

// child returns the node of a name in a folder.
func (n *node) child(name string) *node {
	c := n.children[name]
	if c == nil {
		c = &node{gone: n.gone || n.emptied}
		if n.children == nil {
			n.children = map[string]*node{}
		}
		n.children[name] = c
	}
	return c
}

// remove removes whatever is there.
func (n *node) remove() {
	n.kind, n.named, n.gone = nothing, false, true
	for _, c := range n.children {
		c.remove()
	}
}

// whiteout removes what the layer has not made itself: a whiteout is about the
// parents, wherever it stands in the layer (OCI image spec, layer.md, "Whiteouts").
func (n *node) whiteout() {
	switch n.kind {
	case nothing:
		n.remove()
	case folder:
		n.empty()
	}
}

// empty does so to all that is in a folder.
func (n *node) empty() {
	n.emptied = true
	for _, c := range n.children {
		c.whiteout()
	}
}

// through returns the node of a folder that a path leads to. Folders that are not
// there are made, if it is the path of something that is made. If not, the folder is
// only copied: overlayfs does so when its attributes are set, though to what they are.
func (s *Staged) through(path string, making bool) (n *node, ok bool) {
	n = &s.root
	at := ""
	for path != "" {
		var name string
		name, path, _ = strings.Cut(path, "/")
		n, at = n.child(name), filepath.Join(at, name)
		switch n.kind {
		case other: // perhaps a symlink, which leads elsewhere with the parents than without
			return nil, false
		case nothing:
			n.passed = n.passed || !n.gone
			if making {
				if mkdirKeeping(s.Root(), at) != nil {
					return nil, false
				}
				n.kind, n.invented = folder, true
			}
		}
	}
	n.copied = true
	return n, true
}

// mkdirKeeping makes a folder below a root that the layer may never name: from 1970 and
// 0755, as one that is implied on a mount is. The one it is in keeps its time: the parents
// may have that already.
func mkdirKeeping(root, path string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	info, err := r.Lstat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if err := r.Mkdir(path, 0o755); err != nil {
		return err
	}
	made, err := r.Lstat(path)
	if err != nil {
		return err
	}
	if err := r.Chmod(path, made.Mode()&fs.ModeSetgid|0o755); err != nil { // whatever the umask
		return err
	}
	if err := r.Chtimes(path, time.Time{}, time.Unix(0, 0)); err != nil {
		return err
	}
	return r.Chtimes(filepath.Dir(path), time.Time{}, info.ModTime())
}

// split returns the path of the folder that a file is in, and the file's name.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// Make tells of a file that takes the place of what is there. A folder only takes that
// of other files.
func (s *Staged) Make(path string, isFolder bool) bool {
	if path == "" {
		s.root.named = true
		return isFolder
	}
	dir, name := split(path)
	in, ok := s.through(dir, true)
	if !ok {
		return false
	}
	n := in.child(name)
	if isFolder {
		n.kind, n.named = folder, true
	} else {
		n.remove()
		n.kind = other
	}
	return true
}

// Link tells of the target of a hardlink; Make tells of the link then.
func (s *Staged) Link(target string) bool {
	n := &s.root
	for name := range strings.SplitSeq(target, "/") {
		if n = n.children[name]; n == nil {
			return false
		}
	}
	return n.kind == other
}

// Remove tells of a whiteout: what the parents have at the path is removed.
func (s *Staged) Remove(path string) bool {
	dir, name := split(path)
	in, ok := s.through(dir, false)
	if ok {
		in.child(name).whiteout()
	}
	return ok
}

// Empty tells of an opaque whiteout: all that the parents have in the folder is removed.
func (s *Staged) Empty(path string) bool {
	n, ok := s.through(path, false)
	if ok {
		n.empty()
	}
	return ok
}
