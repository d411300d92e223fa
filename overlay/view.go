package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
)

// A View is a root filesystem mounted read-only: a snapshot on all its parents.
// Until Release it keeps them from being removed.
type View struct {
	Root string // absolute path of the mount

	release func() error
}

// View mounts a snapshot read-only, or an empty root filesystem for the id "".
// It may be called any number of times for one id; each View is released on its
// own. It fails with ErrNotFound and ErrInvalid, for the snapshot or one below it.
func (s *Store) View(ctx context.Context, id digest.Digest) (*View, error) {
	var held *os.File
	if id != "" {
		var err error
		if held, err = s.use(ctx, id); err != nil {
			return nil, err
		}
	}
	v, err := s.view(id)
	if err != nil {
		held.Close()
		return nil, fmt.Errorf("mount snapshot %s: %w", id, err)
	}
	unmount := v.release
	v.release = sync.OnceValue(func() error {
		defer held.Close()
		return unmount()
	})
	return v, nil
}

// view mounts a snapshot that the caller holds.
func (s *Store) view(id digest.Digest) (*View, error) {
	folders, err := s.chain(id)
	if err != nil {
		return nil, err
	}
	dir, lock, err := s.newFolder()
	if err != nil {
		return nil, err
	}
	v := &View{Root: s.root(dir)}
	v.release = sync.OnceValue(func() error {
		defer lock.Close()
		return s.removeMounted(dir)
	})
	if err := s.mountIn(dir, stack{lowers: folders}); err != nil {
		return nil, errors.Join(err, v.release())
	}
	return v, nil
}

// Release unmounts the view. It may be called more than once.
func (v *View) Release() error { return v.release() }

// Difference returns the folder that holds what a snapshot changes of its
// parent, in overlayfs's form, for reading. Until release is called the snapshot
// is kept from being removed. It fails with ErrNotFound and ErrInvalid.
func (s *Store) Difference(ctx context.Context, id digest.Digest) (dir string, release func(), err error) {
	held, err := s.use(ctx, id)
	if err != nil {
		return "", nil, err
	}
	if _, err := s.Get(id); err != nil {
		held.Close()
		return "", nil, err
	}
	return s.fs(id), func() { held.Close() }, nil
}

// root is where the mount in the folder dir is found.
func (s *Store) root(dir string) string {
	root := filepath.Join(dir, "root")
	if s.Space != nil {
		return s.Space.Reach(root)
	}
	return root
}

// mountIn mounts the stack at root in the folder dir. One more lower folder, an
// empty one, goes below all: overlayfs wants at least one, and two if there is no
// upper folder. A single folder could be bound instead, but only overlayfs hides
// its own attributes.
func (s *Store) mountIn(dir string, k stack) error {
	empty, root := filepath.Join(dir, "empty"), filepath.Join(dir, "root")
	folders := []string{empty, root}
	if len(k.lowers) == 0 && k.upper == "" {
		more := filepath.Join(dir, "empty2")
		folders, k.lowers = append(folders, more), append(k.lowers, more)
	}
	for _, f := range folders {
		if err := os.Mkdir(f, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(f, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	k.lowers = append(k.lowers, empty)
	return s.do(func() error { return k.mount(root) })
}

// removeMounted unmounts root in the folder dir and removes the folder. If it
// cannot be unmounted, nothing is removed: it would be removed through the mount.
func (s *Store) removeMounted(dir string) error {
	if err := s.detach(filepath.Join(dir, "root")); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
