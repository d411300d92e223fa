package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
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
	Found    func(Fault) // is called with each fault
}

// A Fault is something in a state folder that is not as it should be. It makes no build wrong, since
// a build would notice it too, and make the thing again.
type Fault struct {
	Type     string `json:"type"`
	ID       string `json:"id"`
	Problem  string `json:"problem"`
	Repaired bool   `json:"repaired"`
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
	left    int // faults that were not repaired
}

// fault repairs a fault if Repair is set, and reports it to Found.
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
	if err != nil {
		return err
	}
	compare := func(overlay.Snapshot) error { return nil }
	if f.ReadData {
		c, err := f.NewComparer(ctx)
		if err != nil {
			return err
		}
		compare = func(snap overlay.Snapshot) error {
			_, err := c.Compare(ctx, snap)
			if err != nil && !errors.Is(err, stores.ErrDiffers) && !errors.Is(err, overlay.ErrInvalid) {
				err = &machineError{err}
			}
			return err
		}
	}
	for _, snap := range listing.Snapshots {
		f.checked++
		problem := snap.Err
		if problem == nil && snap.Parent != "" && !f.Snapshots.Has(snap.Parent) {
			problem = fmt.Errorf("what it stands on, %s, is gone or damaged", snap.Parent)
		} else if problem == nil {
			problem = compare(snap.Snapshot)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if problem != nil && !f.gone(snap.ID) {
			f.fault("snapshot", string(snap.ID), problem, func() error { return f.putAside(snap.ID, problem) })
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

// A machineError is one that comes of comparing, and not of what was compared.
type machineError struct{ error }

// putAside puts aside a snapshot that has a problem, unless that may be the machine's.
func (f *fsck) putAside(id digest.Digest, problem error) error {
	if errors.As(problem, new(*machineError)) {
		return errors.New("it could not be compared, and may be sound")
	}
	_, err := f.Snapshots.PutAside(id)
	return err
}

// gone reports whether a snapshot was removed meanwhile.
func (f *fsck) gone(id digest.Digest) bool {
	_, err := f.Snapshots.Get(id)
	return errors.Is(err, overlay.ErrNotFound)
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
			f.fault(kind, string(s.Digest), told(err), func() error { return f.Sources.Remove(s) })
		}
	}
	if f.Repair {
		return f.Sources.DropHints()
	}
	return nil
}

// mostChanges is how many files of a damaged mirror are named.
const mostChanges = 3

// told names the files of a damaged mirror that are not what they should be.
func told(err error) error {
	var mirror *imports.MirrorError
	if !errors.As(err, &mirror) || mirror.Was == nil {
		return err
	}
	var words []string
	changes := explain.TreeChanges(mirror.Was, mirror.Now)
	for _, c := range changes[:min(len(changes), mostChanges)] {
		words = append(words, c.Text("", explain.Options{}))
	}
	if more := len(changes) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: %s", err, strings.Join(words, "; "))
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
			packed[r.Packs()] = true
		}
	})
	if err != nil {
		return err
	}
	for _, r := range steps {
		f.checked++
		if time.Since(r.Created) > tombstoneAge {
			continue // nobody knows any more what was removed on purpose
		}
		if gone := f.missing(r, packed); gone != "" && f.stays(r) {
			f.fault(KindRecord, string(r.Kind)+"/"+string(r.Key), fmt.Errorf("neither the snapshot nor the packed form of %s, which it names, is there", gone),
				func() error { return f.Cache.RemoveRecord(r.Kind, r.Key) })
		}
	}
	return nil
}

// stays reports whether a record was not removed meanwhile.
func (f *fsck) stays(r *buildcache.Record) bool {
	_, err := f.Cache.Get(r.Kind, r.Key)
	return err == nil
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
