package overlay

import (
	"context"
	"fmt"
	"os"
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
	point, err := s.mount(stack{lowers: folders})
	if err != nil {
		return nil, err
	}
	return &View{Root: s.reach(point), release: sync.OnceValue(func() error { return s.leave(point) })}, nil
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
