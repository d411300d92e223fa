package stores

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
)

// ErrDiffers is in the chain of an error about a snapshot whose files are not those it was made with.
var ErrDiffers = errors.New("its files are not those it was made with")

// A Comparer compares the files of snapshots with their DiffIDs. What it needs to know it learns from
// the state folder once. It may be used by several goroutines.
type Comparer struct {
	set    *Set
	epochs map[digest.Digest][]time.Time // of snapshots by their ids, from records of steps
	packed map[digest.Digest][]oci.Layer // by DiffID
}

// NewComparer returns a Comparer that knows what is in the state folder now.
func (s *Set) NewComparer(ctx context.Context) (*Comparer, error) {
	c := &Comparer{set: s, epochs: map[digest.Digest][]time.Time{}, packed: map[digest.Digest][]oci.Layer{}}
	entries, err := s.Cache.Records(ctx, buildcache.Rootfs, buildcache.Pack)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	err = s.Cache.Each(ctx, entries, func(_ buildcache.Entry, r *buildcache.Record) {
		mu.Lock()
		defer mu.Unlock()
		c.learn(r)
	})
	if err != nil {
		return nil, err
	}
	stored, err := s.Blobs.Blobs(ctx)
	if err != nil {
		return nil, err
	}
	for _, base := range s.Blobs.Bases(stored) {
		for _, layer := range base.Layers {
			c.packed[layer.DiffID] = append(c.packed[layer.DiffID], layer)
		}
	}
	return c, nil
}

// learn notes what a record tells of snapshots.
func (c *Comparer) learn(r *buildcache.Record) {
	var blob oci.Descriptor
	if diff := r.Packs(); diff != "" && json.Unmarshal(r.Result, &blob) == nil {
		c.packed[diff] = append(c.packed[diff], oci.Layer{Descriptor: blob, DiffID: diff})
	}
	for _, in := range r.Inputs {
		if in.Code != buildcache.Epoch {
			continue
		}
		epoch := parseEpoch(in.Value)
		for _, layer := range r.AddedLayers() {
			c.epochs[layer.ChainID] = append(c.epochs[layer.ChainID], epoch)
		}
	}
}

// Compare fails with ErrDiffers if the files of a snapshot are not those it was made with. Nothing that
// may be missing decides that: proven is false, and the error nil, if there is nothing to compare with.
// Other errors are of the machine, and fs.ErrNotExist or overlay.ErrNotFound of a snapshot that was
// removed meanwhile.
//
// Packing gives the DiffID of what a step made, with the epoch that the snapshot or a record of the step
// names: as it is, or where an earlier layerbuild made it, with later times set to the epoch. What others packed, or a step whose record is gone, is unpacked once more from its blob, and the
// two are compared, but for times: a folder that no layer names has the time of unpacking.
func (c *Comparer) Compare(ctx context.Context, snap overlay.Snapshot) (proven bool, err error) {
	got, err := c.packAny(ctx, snap, true)
	if err != nil || got == snap.DiffID {
		return err == nil, err
	}
	different := fmt.Errorf("%w: packed they are %s, not %s", ErrDiffers, got, snap.DiffID)
	if snap.Epoch != "" {
		return true, different
	}
	if got, err = c.packAny(ctx, snap, false); err != nil || got == snap.DiffID {
		return err == nil, err
	}
	for _, layer := range c.packed[snap.DiffID] {
		if c.set.Blobs.Check(ctx, layer.Digest) != nil {
			continue
		}
		was, err := c.pack(ctx, snap, oci.PackOptions{Epoch: noTimes})
		if err != nil {
			return false, err
		}
		again, err := c.unpack(ctx, snap, layer)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, overlay.ErrNotFound) {
			return false, nil // the blob, or what it stands on, was removed just now
		}
		if err == nil && again != was {
			err = different
		}
		return true, err
	}
	return false, nil
}

// Exact reports whether the files of a snapshot are those it was made with, all times too. It does not know
// that of all snapshots that are: see Compare.
func (c *Comparer) Exact(ctx context.Context, snap overlay.Snapshot) (bool, error) {
	got, err := c.packAny(ctx, snap, true)
	return got == snap.DiffID, err
}

// packAny returns the DiffID that the files of a snapshot have with one of the epochs that are known for it:
// with any that makes it the snapshot's own.
func (c *Comparer) packAny(ctx context.Context, snap overlay.Snapshot, exact bool) (got digest.Digest, err error) {
	epochs := append(slices.Clone(c.epochs[snap.ID]), time.Time{})
	if snap.Epoch != "" {
		epochs = []time.Time{parseEpoch(snap.Epoch)}
	}
	for _, epoch := range epochs {
		if got, err = c.pack(ctx, snap, oci.PackOptions{Epoch: epoch, Exact: exact}); err != nil || got == snap.DiffID {
			break
		}
	}
	return got, err
}

// parseEpoch reads an epoch as snapshots and records have it: "now" is the zero time.
func parseEpoch(text string) time.Time {
	epoch, _ := time.Parse(time.RFC3339, text)
	return epoch
}

// noTimes is the epoch of what is packed without times.
var noTimes = time.Unix(0, 0)

// pack returns the DiffID that the files of a snapshot have.
func (c *Comparer) pack(ctx context.Context, snap overlay.Snapshot, o oci.PackOptions) (digest.Digest, error) {
	dir, release, err := c.set.Snapshots.Difference(ctx, snap.ID)
	if err != nil {
		return "", err
	}
	defer release()
	o.Root, o.Discard = true, true
	packed, err := c.set.Blobs.Pack(ctx, dir, o)
	return packed.DiffID, err
}

// unpack returns the DiffID, without times, of a layer that is unpacked onto the parent of snap.
func (c *Comparer) unpack(ctx context.Context, snap overlay.Snapshot, layer oci.Layer) (digest.Digest, error) {
	upper, err := c.set.Snapshots.Prepare(ctx, snap.Parent)
	if err != nil {
		return "", err
	}
	defer upper.Drop()
	root, err := upper.Mount(ctx)
	if err != nil {
		return "", err
	}
	if err := c.set.Blobs.Unpack(ctx, layer, root, nil); err != nil {
		return "", err
	}
	if err := upper.Unmount(); err != nil {
		return "", err
	}
	if err := upper.Shape(ctx); err != nil {
		return "", err
	}
	packed, err := c.set.Blobs.Pack(ctx, upper.Upper(), oci.PackOptions{Epoch: noTimes, Root: true, Discard: true})
	return packed.DiffID, err
}
