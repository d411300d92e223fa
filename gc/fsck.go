package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/stores"
)

// FsckOptions say what Fsck looks at.
type FsckOptions struct {
	StateDir string
	Repair   bool        // put aside what is damaged, forget what refers to nothing
	ReadData bool        // read packed layers, downloads and the files of snapshots, too
	Found    func(Fault) // is told of each
}

// A Fault is something of a state folder that is not as it should be. No build
// comes out wrong for it, since it would be noticed; but it would be made again.
type Fault struct {
	Type, ID string
	Problem  string
	Repaired bool
}

// A FsckError says that a state folder has faults that were not repaired.
type FsckError struct{ Faults int }

func (e *FsckError) Error() string {
	noun := "faults"
	if e.Faults == 1 {
		noun = "fault"
	}
	return fmt.Sprintf("%d %s in the state folder: --repair puts aside what is damaged", e.Faults, noun)
}

// Fsck checks every reference and every checksum of a state folder, and returns
// how many things it checked. Builds may go on meanwhile. With ReadData it mounts
// and must be root.
func Fsck(ctx context.Context, o FsckOptions) (checked int, err error) {
	set, err := stores.OpenExisting(ctx, o.StateDir)
	if set == nil || err != nil {
		return 0, err
	}
	defer set.Close()
	if o.ReadData {
		if err := namespace.Enter(); err != nil {
			return 0, err
		}
	}
	f := &fsck{FsckOptions: o, Set: set}
	for _, check := range []func(context.Context) error{f.files, f.snapshots, f.blobs, f.sources, f.caches, f.records} {
		if err := check(ctx); err != nil {
			return f.checked, err
		}
	}
	if f.left > 0 {
		return f.checked, &FsckError{f.left}
	}
	return f.checked, nil
}

type fsck struct {
	FsckOptions
	*stores.Set
	checked int
	left    int                           // faults that were not repaired
	epochs  map[digest.Digest]time.Time   // of snapshots of steps; packed whiteouts have it
	bases   map[digest.Digest][]oci.Layer // layers of bases by DiffID, once they have been read
}

// fault tells of a fault, and repairs it if that is wanted.
func (f *fsck) fault(kind, id string, problem error, repair func() error) {
	fault := Fault{Type: kind, ID: id, Problem: problem.Error()}
	if f.Repair {
		err := repair()
		if fault.Repaired = err == nil; err != nil {
			fault.Problem += "; it cannot be repaired: " + err.Error()
		}
	}
	if !fault.Repaired {
		f.left++
	}
	f.Found(fault)
}

// files checks the sums of all sealed files.
func (f *fsck) files(ctx context.Context) error {
	n, err := f.Cache.CheckFiles(ctx, func(name string, err error) {
		f.fault("file", name, err, func() error { f.Cache.PutAside(name); return nil })
	})
	f.checked += n
	return err
}

// snapshots checks what is known of each snapshot, that its parent is there, and
// perhaps its files.
func (f *fsck) snapshots(ctx context.Context) error {
	listing, err := f.Snapshots.List(ctx, overlay.Listing{})
	if err == nil && f.ReadData {
		err = f.readEpochs(ctx)
	}
	if err != nil {
		return err
	}
	for _, snap := range listing.Snapshots {
		f.checked++
		id := snap.ID
		problem := snap.Err
		if problem == nil && snap.Parent != "" && !f.Snapshots.Has(snap.Parent) {
			problem = fmt.Errorf("what it stands on, %s, is gone or damaged", snap.Parent)
		}
		if problem == nil && f.ReadData {
			if problem, err = f.snapshotFiles(ctx, snap.Snapshot); err != nil {
				return err
			}
		}
		if problem != nil && !f.gone(id) {
			f.fault("snapshot", string(id), problem, func() error {
				_, err := f.Snapshots.PutAside(id)
				return err
			})
		}
	}
	for _, kept := range listing.Kept {
		f.checked++
		if kept.Err != nil {
			f.fault(KindFailed, kept.Name, kept.Err, func() error { return f.Snapshots.RemoveKept(kept.Name) })
		}
	}
	return nil
}

// readEpochs finds in the records as of when the files of each snapshot are.
func (f *fsck) readEpochs(ctx context.Context) error {
	entries, err := f.Cache.Records(ctx, buildcache.Rootfs)
	if err != nil {
		return err
	}
	f.epochs = map[digest.Digest]time.Time{}
	var mu sync.Mutex
	return f.Cache.Each(ctx, entries, func(_ buildcache.Entry, r *buildcache.Record) {
		mu.Lock()
		defer mu.Unlock()
		for _, in := range r.Inputs {
			if in.Code != buildcache.Epoch {
				continue
			}
			epoch, _ := time.Parse(time.RFC3339, in.Value) // "now" is none
			for _, layer := range r.AddedLayers() {
				f.epochs[layer.ChainID] = epoch
			}
		}
	})
}

// gone tells whether a snapshot was removed meanwhile.
func (f *fsck) gone(id digest.Digest) bool {
	_, err := f.Snapshots.Get(id)
	return errors.Is(err, overlay.ErrNotFound)
}

// snapshotFiles compares a snapshot's files with its DiffID. Packing gives the
// DiffID of what a step made. A layer of a base was packed by others: it is
// unpacked once more, and the two are compared, but for times.
func (f *fsck) snapshotFiles(ctx context.Context, snap overlay.Snapshot) (problem, err error) {
	got, problem := f.diffID(ctx, snap, f.epochs[snap.ID])
	if problem != nil || got == snap.DiffID {
		return problem, ctx.Err()
	}
	different := fmt.Errorf("its files are not those it was made with: packed they are %s, not %s", got, snap.DiffID)
	if snap.Kind != KindBase {
		return different, ctx.Err()
	}
	layer, ok := f.baseLayer(ctx, snap.DiffID)
	if !ok {
		return nil, nil // nothing to compare with
	}
	was, problem := f.diffID(ctx, snap, noTimes)
	if problem != nil {
		return problem, ctx.Err()
	}
	again, err := f.unpackedAgain(ctx, snap, layer)
	if err != nil || again == was {
		return nil, err
	}
	return different, nil
}

// noTimes is the epoch of what is packed without times. A folder that no layer names has
// that of unpacking, which is another each time.
var noTimes = time.Unix(0, 0)

func (f *fsck) diffID(ctx context.Context, snap overlay.Snapshot, epoch time.Time) (digest.Digest, error) {
	dir, release, err := f.Snapshots.Difference(ctx, snap.ID)
	if err != nil {
		return "", err
	}
	defer release()
	packed, err := f.Blobs.Pack(ctx, dir, oci.PackOptions{Epoch: epoch, Root: true, Discard: true})
	return packed.DiffID, err
}

// baseLayer finds the packed form of a base's layer.
func (f *fsck) baseLayer(ctx context.Context, diff digest.Digest) (oci.Layer, bool) {
	if f.bases == nil {
		stored, err := f.Blobs.Blobs(ctx)
		if err != nil {
			return oci.Layer{}, false
		}
		f.bases = map[digest.Digest][]oci.Layer{}
		for _, base := range f.Blobs.Bases(stored) {
			for _, layer := range base.Layers {
				f.bases[layer.DiffID] = append(f.bases[layer.DiffID], layer)
			}
		}
	}
	for _, layer := range f.bases[diff] {
		if f.Blobs.Check(ctx, layer.Digest) == nil {
			return layer, true
		}
	}
	return oci.Layer{}, false
}

func (f *fsck) unpackedAgain(ctx context.Context, snap overlay.Snapshot, layer oci.Layer) (digest.Digest, error) {
	upper, err := f.Snapshots.Prepare(ctx, snap.Parent)
	if err != nil {
		return "", err
	}
	defer upper.Drop()
	root, err := upper.Mount(ctx)
	if err != nil {
		return "", err
	}
	if err := f.Blobs.Unpack(ctx, layer, root, nil); err != nil {
		return "", err
	}
	if err := upper.Unmount(); err != nil {
		return "", err
	}
	packed, err := f.Blobs.Pack(ctx, upper.Upper(), oci.PackOptions{Epoch: noTimes, Root: true, Discard: true})
	return packed.DiffID, err
}

// blobs compares packed layers and documents with their digests.
func (f *fsck) blobs(ctx context.Context) error {
	stored, err := f.Blobs.Blobs(ctx)
	if err != nil || !f.ReadData {
		return err
	}
	for _, b := range stored {
		f.checked++
		err := f.Blobs.Check(ctx, b.Digest)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, oci.ErrCorrupt) {
			f.fault("blob", string(b.Digest), err, func() error { return f.Blobs.PutAside(b.Digest) })
		}
	}
	return nil
}

func (f *fsck) sources(ctx context.Context) error {
	stored, err := f.Sources.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range stored {
		f.checked++
		err := f.Sources.Check(ctx, s, f.ReadData)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, imports.ErrCorrupt) {
			kind := KindTree
			if s.Download {
				kind = KindDownload
			}
			f.fault(kind, string(s.Digest), err, func() error { return f.Sources.Remove(s) })
		}
	}
	if f.Repair {
		return f.Sources.DropHints()
	}
	return nil
}

// caches checks that each is one. What is in them is their steps'.
func (f *fsck) caches(context.Context) error {
	stored, err := f.Caches.List()
	if err != nil {
		return err
	}
	for _, c := range stored {
		f.checked++
		if c.Err != nil {
			f.fault(KindCache, c.Name, c.Err, func() error { return f.Caches.PutAside(c.Name) })
		}
	}
	return nil
}

// records checks that what records name is there, or was removed on purpose.
func (f *fsck) records(ctx context.Context) error {
	entries, err := f.Cache.Records(ctx, buildcache.Rootfs, buildcache.Pack)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	packed := map[digest.Digest]bool{}
	var steps []*buildcache.Record
	err = f.Cache.Each(ctx, entries, func(_ buildcache.Entry, r *buildcache.Record) {
		mu.Lock()
		defer mu.Unlock()
		if r.Kind == buildcache.Rootfs {
			steps = append(steps, r)
			return
		}
		var blob oci.Descriptor
		if json.Unmarshal(r.Result, &blob) == nil && f.Blobs.Has(blob) {
			packed[digest.Digest(diffOf(r))] = true
		}
	})
	if err != nil {
		return err
	}
	for _, r := range steps {
		f.checked++
		if gone := f.missing(r, packed); gone != "" {
			f.fault(KindRecord, string(r.Kind)+"/"+string(r.Key), fmt.Errorf("neither the snapshot nor the packed form of %s, which it names, is there", gone),
				func() error { return f.Cache.RemoveRecord(r.Kind, r.Key) })
		}
	}
	return nil
}

// missing returns the first layer of a record's result that is neither there nor
// was removed by prune.
func (f *fsck) missing(r *buildcache.Record, packed map[digest.Digest]bool) digest.Digest {
	for _, layer := range r.AddedLayers() {
		if f.Snapshots.Has(layer.ChainID) || packed[layer.DiffID] {
			continue
		}
		if _, err := f.Cache.Tombstone(buildcache.BurySnapshot, layer.ChainID.Encoded()); err == nil {
			continue
		}
		return layer.ChainID
	}
	return ""
}

// diffOf is the DiffID that a pack record is of.
func diffOf(r *buildcache.Record) string {
	n := slices.IndexFunc(r.Inputs, func(in buildcache.Input) bool { return in.Name == "diff" })
	if n < 0 {
		return ""
	}
	return r.Inputs[n].Value
}
