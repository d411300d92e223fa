package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/caches"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// rooms are the rooms of one state folder.
type rooms struct {
	state     string // absolute
	roots     string // where the snapshots are, and what becomes of them: the same, or what --roots-dir said
	cache     *buildcache.Cache
	sources   *imports.Store
	snapshots *overlay.Store
	blobs     *oci.Store
	caches    *caches.Store
}

// openRooms opens a state folder, and makes it if need be. Until close nobody
// destroys it, and nobody removes what was found in it.
func openRooms(ctx context.Context, state string, o imports.Options) (*rooms, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, err
	}
	r := &rooms{state: state}
	if r.cache, err = buildcache.Open(ctx, state); err != nil {
		return nil, err
	}
	if r.roots, err = overlay.Roots(state); err == nil {
		r.snapshots, err = overlay.Open(state)
	}
	if err == nil {
		r.snapshots.Space = namespace.Space{}
		err = checkOwners(r.roots)
	}
	if err == nil {
		o.Forbidden = append(o.Forbidden, r.roots)
		r.sources, err = imports.Open(state, o)
	}
	if err == nil {
		r.blobs, err = oci.OpenStore(state)
	}
	if err != nil {
		return nil, errors.Join(err, r.cache.Close())
	}
	r.caches = caches.Open(state)
	return r, nil
}

// placeRoots says where the snapshots are from now on, unless nothing was said now:
// then they are where they were.
func (o Options) placeRoots() error {
	if o.RootsDir == "" {
		return nil
	}
	before, err := overlay.SetRoots(o.StateDir, o.RootsDir)
	if err != nil {
		return fmt.Errorf("--roots-dir: %w", err)
	}
	there, _ := os.ReadDir(filepath.Join(before, "snapshots"))
	if after, err := overlay.Roots(o.StateDir); err != nil || after == before || len(there) == 0 {
		return err
	}
	o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Warning, Text: fmt.Sprintf(
		"root filesystems are in %s from now on; those in %s are of no use until --roots-dir names that", o.RootsDir, before)})
	return nil
}

// folders are those that the rooms are in: one, or two.
func (r *rooms) folders() []string { return slices.Compact([]string{r.state, r.roots}) }

func (r *rooms) close() {
	_ = r.snapshots.Close()
	_ = r.blobs.Close()
	_ = r.sources.Close()
	_ = r.cache.Close()
}
