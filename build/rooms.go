package build

import (
	"errors"
	"path/filepath"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
)

// rooms are the rooms of one state folder.
type rooms struct {
	state     string // absolute
	cache     *buildcache.Cache
	sources   *imports.Store
	snapshots *overlay.Store
	blobs     *oci.Store
}

// openRooms opens a state folder, and makes it if need be. Until close nobody
// destroys it, and nobody removes what was found in it.
func openRooms(state string, o imports.Options) (*rooms, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return nil, err
	}
	r := &rooms{state: state}
	if r.cache, err = buildcache.Open(state); err != nil {
		return nil, err
	}
	if r.sources, err = imports.Open(state, o); err == nil {
		r.snapshots, err = overlay.Open(state)
	}
	if err == nil {
		r.blobs, err = oci.OpenStore(state)
	}
	if err != nil {
		return nil, errors.Join(err, r.cache.Close())
	}
	return r, nil
}

func (r *rooms) close() {
	_ = r.snapshots.Close()
	_ = r.blobs.Close()
	_ = r.sources.Close()
	_ = r.cache.Close()
}
