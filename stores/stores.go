// Package stores opens the stores of one state folder together.
//
// A state folder holds a cache of records, sources of imports, snapshots, blobs, and the folders
// that steps keep between builds. Each has a package of its own, and none of them knows the
// others. What needs more than one of them, such as a build, prune or fsck, opens a Set:
//
//	set, err := stores.Open(ctx, state, imports.Options{})
//	if err != nil { … }
//	defer set.Close()
package stores

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/caches"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
)

// A Set is the open stores of one state folder.
type Set struct {
	State     string // the folder's absolute path
	Roots     string // where Snapshots is: State, unless --roots-dir named another folder
	Cache     *buildcache.Cache
	Sources   *imports.Store
	Snapshots *overlay.Store
	Blobs     *oci.Store
	Caches    *caches.Store
}

// Open opens the stores of a state folder, and makes the folder if need be. Until Close no
// process destroys the folder, or removes what was found in it.
func Open(ctx context.Context, state string, o imports.Options) (*Set, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, err
	}
	s := &Set{State: state}
	if s.Cache, err = buildcache.Open(ctx, state); err != nil {
		return nil, err
	}
	if s.Roots, err = overlay.Roots(state); err == nil {
		s.Snapshots, err = overlay.Open(state)
	}
	if err == nil {
		s.Snapshots.Space = namespace.Space{}
		err = CheckOwners(s.Roots)
	}
	if err == nil {
		o.Forbidden = append(o.Forbidden, s.Roots)
		s.Sources, err = imports.Open(state, o)
	}
	if err == nil {
		s.Blobs, err = oci.OpenStore(state)
	}
	if err != nil {
		return nil, errors.Join(err, s.Cache.Close())
	}
	s.Caches = caches.Open(state)
	return s, nil
}

// OpenExisting is Open for a command that looks at all that a state folder holds, or removes
// it. It returns nil if there is no such folder.
func OpenExisting(ctx context.Context, state string) (*Set, error) {
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := Enter(state); err != nil {
		return nil, err
	}
	return Open(ctx, state, imports.Options{})
}

// Folders returns the folders that the stores are in: one or two.
func (s *Set) Folders() []string { return slices.Compact([]string{s.State, s.Roots}) }

// Close ends the use of the stores.
func (s *Set) Close() {
	_ = s.Snapshots.Close()
	_ = s.Blobs.Close()
	_ = s.Sources.Close()
	_ = s.Cache.Close()
}

// Destroy removes a state folder and all that it remembers. It fails while a build uses the
// folder, or if the folder is not layerbuild's; without a folder it does nothing.
func Destroy(ctx context.Context, state string) error {
	if _, err := os.Lstat(filepath.Join(state, "version")); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("%s is no state folder of layerbuild: it is left alone", state)
	}
	roots, err := overlay.Roots(state)
	if err != nil {
		return err
	}
	if err := buildcache.Destroy(ctx, state); err != nil || roots == state {
		return err
	}
	snapshots, err := overlay.Open(roots)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(roots, ownersFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return snapshots.Clear(ctx)
}
