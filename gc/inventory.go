// Package gc lists what a state folder holds, measures it, checks it, and removes what may go: the
// commands du, fsck, prune and gc, and what a build collects when it has ended.
//
// An inventory has an Item for each thing that can be removed by itself. What was read of the many
// small files is kept as facts, so that the next inventory only looks whether they are the same.
package gc

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/stores"
)

// Kinds of what a state folder holds.
const (
	KindBase      = "base"       // of an image from outside: a layer, or its manifest and config
	KindLayer     = "layer"      // made by a step
	KindBuildOnly = "build-only" // the same, of a layer that makes no image
	KindTree      = "tree"       // the manifest of an import, and the copy that runs see
	KindDownload  = "download"   // a file behind a URL
	KindPartial   = "partial"    // of a layer or a file behind a URL, what had come when it was cut
	KindRecord    = "record"     // what a step read and gave
	KindCache     = "cache"      // a folder that steps keep between builds
	KindFailed    = "failed"     // what a failed step left, kept by --keep-failed
	KindCorrupt   = "corrupt"    // what was found damaged and put aside
)

// Kinds lists them.
func Kinds() []string {
	return []string{KindBase, KindLayer, KindBuildOnly, KindTree, KindDownload, KindPartial, KindRecord, KindCache, KindFailed, KindCorrupt}
}

// An Item is one thing that a state folder keeps, and that can be removed by itself.
type Item struct {
	ID          string    `json:"id"` // a digest, KIND/KEY of a record, or a name
	Type        string    `json:"type"`
	Description string    `json:"description,omitempty"`
	Parent      string    `json:"parent,omitempty"` // the snapshot that it stands on
	Created     time.Time `json:"created"`
	LastUsed    time.Time `json:"last_used"` // when it came, if no use of it is known
	Times       int       `json:"times_used"`

	Size   int64 `json:"size"`     // bytes on disk, of the snapshot and whatever has no blob
	Blob   int64 `json:"blob"`     // bytes on disk of its packed layer; what items share counts for one
	Inodes int64 `json:"inodes"`   // files and folders
	Shared bool  `json:"shared"`   // an image in an OCI layout that was written has it, too
	InUse  bool  `json:"in_use"`   // by a process, or something that is stands on it
	Kept   bool  `json:"kept"`     // the last build of some layer uses it: see markKept
	Mut    bool  `json:"mutable"`  // it can still change: the rest of a failed step
	Holds  int   `json:"children"` // what stands on it

	usageID string
	holding holding // nil if it has only blobs
	blobs   []*blob
	parent  *Item
	grave   string        // the kind of its tombstone, which has usageID; "" without one
	diff    digest.Digest // DiffID of a snapshot
	top     digest.Digest // the highest layer of the base that this is the manifest of
	gone    bool          // by a rule before
	turn    int           // when a rule removes it, from 1; 0 if it does not
}

// Bytes is what the item takes on disk.
func (i *Item) Bytes() int64 { return i.Size + i.Blob }

// An inventory is all that a state folder holds.
type inventory struct {
	*stores.Set
	items []*Item
	other Other

	// What the stores list.
	facts   *facts
	records []*record
	last    []lastBuild
	imports []imports.Stored
	listing *overlay.Listing
	stored  []blob
	shared  map[digest.Digest]bool // the blobs of all OCI layouts that builds wrote to
	usage   map[string]buildcache.Usage

	byDigest map[digest.Digest]*blob
	forms    map[digest.Digest][]*blob // DiffID → packed forms
}

// A blob is the packed form of a layer, or a document of a base.
type blob struct {
	oci.Stored
	isLayer bool
	users   int // the items that have it
}

// Other is what a state folder needs for itself: it is no item, and not removed.
type Other struct {
	Size   int64 `json:"size"`
	Inodes int64 `json:"inodes"`
}

// take lists all that the stores hold, without waiting for processes that use it.
func take(ctx context.Context, set *stores.Set) (*inventory, error) {
	v := &inventory{Set: set}
	if err := v.read(ctx); err != nil {
		return nil, err
	}
	v.facts.store()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return v.measureOther(ctx) })
	group.Go(func() error {
		v.addBlobs()
		v.addSnapshots()
		v.addLooseBlobs()
		v.addImports()
		v.addRecords()
		if err := v.addCaches(ctx); err != nil {
			return err
		}
		if err := v.addPartial(); err != nil {
			return err
		}
		return v.addCorrupt(ctx)
	})
	return v, group.Wait()
}

// read reads what each room has, all at the same time.
func (v *inventory) read(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { v.imports, err = v.Sources.List(ctx); return err })
	group.Go(func() (err error) { v.usage, err = v.Cache.Usage(); return err })
	group.Go(func() (err error) { v.shared, err = v.sharedBlobs(); return err })
	v.facts = openFacts(v.State)
	group.Go(func() error { return v.readSnapshots(ctx) })
	group.Go(func() error { return v.readRecords(ctx) })
	group.Go(func() error { return v.readLastBuilds(ctx) })
	group.Go(func() error { return v.readBlobs(ctx) })
	return group.Wait()
}

// sharedBlobs are the blobs of all OCI layouts that builds wrote to.
func (v *inventory) sharedBlobs() (map[digest.Digest]bool, error) {
	paths, err := v.Cache.Layouts()
	if err != nil {
		return nil, err
	}
	shared := map[digest.Digest]bool{}
	for _, path := range paths {
		layout, err := oci.OpenLayout(path)
		if err != nil {
			continue // it is gone, or not ours any more
		}
		there, err := layout.BlobDigests()
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // cleaned just now
			return nil, err
		}
		for d := range there {
			shared[d] = true
		}
	}
	return shared, nil
}

// addBlobs finds out which blob is the packed form of which DiffID, and adds the
// documents of bases.
func (v *inventory) addBlobs() {
	v.byDigest = make(map[digest.Digest]*blob, len(v.stored))
	v.forms = make(map[digest.Digest][]*blob, len(v.stored))
	for n := range v.stored {
		v.byDigest[v.stored[n].Digest] = &v.stored[n]
	}
	for _, r := range v.records {
		if r.kind != buildcache.Pack {
			continue
		}
		for diff := range r.inputs.all() {
			for packed := range r.results.all() {
				v.pair(diff, packed)
			}
		}
	}
	var loose []oci.Stored
	for _, b := range v.stored {
		if !b.isLayer {
			loose = append(loose, b.Stored)
		}
	}
	for _, base := range v.Blobs.Bases(loose) {
		v.addBase(base)
	}
}

// pair notes that a blob is the packed form of a DiffID.
func (v *inventory) pair(diff, packed digest.Digest) {
	if b := v.byDigest[packed]; b != nil && !slices.Contains(v.forms[diff], b) {
		v.forms[diff] = append(v.forms[diff], b)
		b.isLayer = true
	}
}

func (v *inventory) addBase(base oci.StoredBase) {
	for _, layer := range base.Layers {
		v.pair(layer.DiffID, layer.Digest)
	}
	documents := []*blob{v.byDigest[base.Manifest.Digest]}
	if config := v.byDigest[base.Config.Digest]; config != nil {
		documents = append(documents, config)
	}
	i := &Item{
		ID: base.Manifest.Digest.String(), Type: KindBase, Description: "manifest and config of a base image",
		Created: time.Unix(documents[0].Time, 0),
		grave:   buildcache.BuryBlob,
	}
	if n := len(base.Layers); n > 0 {
		i.top = base.Layers[n-1].Digest
	}
	v.add(i, base.Manifest.Digest.Encoded(), documents...)
}

// add adds an item that has these blobs, and counts it by the id that builds use.
func (v *inventory) add(i *Item, hex string, blobs ...*blob) {
	i.blobs = blobs
	for _, b := range blobs {
		i.Shared = i.Shared || v.shared[b.Digest]
		if b.users == 0 {
			i.Blob += b.Disk
			i.Inodes++
		}
		b.users++
	}
	i.usageID, i.LastUsed = hex, i.Created
	if u, ok := v.usage[hex]; ok {
		i.Times = u.Times
		if u.Last.After(i.LastUsed) {
			i.LastUsed = u.Last
		}
	}
	v.items = append(v.items, i)
}

func (v *inventory) addSnapshots() {
	first := len(v.items)
	for _, snap := range v.listing.Snapshots {
		i := &Item{
			ID: string(snap.ID), Type: snap.Kind, Description: snap.Description, Parent: string(snap.Parent),
			Created: snap.Created, Size: snap.Disk, Inodes: snap.DiskInodes, Holds: snap.Children,
			holding: snapshot{snap}, grave: buildcache.BurySnapshot, diff: snap.DiffID,
		}
		switch {
		case snap.Err != nil:
			i.Type, i.Description = KindCorrupt, snap.Err.Error()
		case !slices.Contains(Kinds(), i.Type): // of an earlier layerbuild
			i.Type = KindLayer
		}
		v.add(i, snap.ID.Encoded(), v.forms[snap.DiffID]...)
	}
	item := func(id digest.Digest) *Item {
		if snap := v.listing.Find(id); snap != nil {
			return v.items[first+snap.Place]
		}
		return nil
	}
	for _, snap := range v.listing.Snapshots {
		v.items[first+snap.Place].parent = item(snap.Parent)
	}
	for _, k := range v.listing.Kept {
		v.add(&Item{
			ID: k.Name, Type: KindFailed, Description: k.Description, Parent: string(k.Parent),
			Created: k.Time, Size: k.Size, Inodes: k.Inodes, Mut: true, holding: kept(k.Name), parent: item(k.Parent),
		}, k.Name)
	}
}

// addLooseBlobs adds the layers that are packed, but not on disk.
func (v *inventory) addLooseBlobs() {
	for n := range v.stored {
		b := &v.stored[n]
		if b.users > 0 {
			continue
		}
		kind := KindBase
		if b.isLayer {
			kind = KindLayer
		}
		v.add(&Item{
			ID: b.Digest.String(), Type: kind, Description: "packed layer", Created: time.Unix(b.Time, 0),
			grave: buildcache.BuryBlob,
		}, b.Digest.Encoded(), b)
	}
}

func (v *inventory) addImports() {
	trees := make(map[digest.Digest]*Item, len(v.imports))
	for n, s := range v.imports {
		i := &Item{
			ID: s.Digest.String(), Type: KindTree, Created: time.Unix(s.Time, 0), Size: s.Disk, Inodes: s.Inodes,
			holding: stored{&v.imports[n]},
		}
		if s.Download {
			i.Type, i.Description, i.Kept = KindDownload, s.URL, s.URL != ""
		} else {
			trees[s.Digest] = i
		}
		v.add(i, s.Digest.Encoded())
	}
	if len(trees) > 0 {
		v.describe(trees)
	}
}

// describe says of trees which layer's step was the last to read them.
func (v *inventory) describe(trees map[digest.Digest]*Item) {
	last := make(map[*Item]int64, len(trees))
	for _, r := range v.records {
		if r.kind != buildcache.Rootfs {
			continue
		}
		for d := range r.inputs.all() {
			if i := trees[d]; i != nil && r.time >= last[i] {
				i.Description, last[i] = "read by "+r.maker, r.time
			}
		}
	}
}

func (v *inventory) addRecords() {
	for _, r := range v.records {
		var grave string
		if r.kind == buildcache.Rootfs || r.kind == buildcache.Labels { // whose misses are explained
			grave = string(r.kind)
		}
		v.add(&Item{
			ID: string(r.kind) + "/" + string(r.key), Type: KindRecord, Description: string(r.kind) + " step of " + r.maker,
			Created: time.Unix(r.time, 0), Size: r.disk, Inodes: 1, holding: r, grave: grave,
		}, string(r.key))
	}
}

// addCaches adds the caches of steps. They change as steps run, so they are measured.
func (v *inventory) addCaches(ctx context.Context) error {
	all, err := v.Caches.List()
	if err != nil {
		return err
	}
	for n, c := range all {
		i := &Item{
			ID: c.Name, Type: KindCache, Description: "cache mount " + c.ID, Created: c.Created, Mut: true, holding: cacheMount{&all[n]},
		}
		switch {
		case c.Err != nil:
			i.Type, i.Description = KindCorrupt, c.Err.Error()
		case c.Copy > 0:
			i.Description += ", copy " + strconv.Itoa(c.Copy)
		}
		size, err := measureTree(ctx, c.Path, nil)
		if err != nil {
			return err
		}
		i.Size, i.Inodes = size.Size, size.Inodes
		v.add(i, c.Name)
		if c.Used.After(i.LastUsed) {
			i.LastUsed = c.Used
		}
	}
	return nil
}

// addPartial adds what was cut when it was fetched, each with its note and lock.
func (v *inventory) addPartial() error {
	all, err := filepath.Glob(filepath.Join(v.State, "partial", "*"))
	if err != nil {
		return err
	}
	items := map[string]*Item{}
	for _, path := range all {
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue // it came to its end just now
		}
		name := strings.TrimSuffix(strings.TrimSuffix(path, lockSuffix), noteSuffix)
		i := items[name]
		if i == nil {
			i = &Item{ID: filepath.Base(name), Type: KindPartial, Description: "cut when it was fetched", holding: &partial{path: name}}
			items[name] = i
		}
		i.Size += st.Blocks * 512
		i.Inodes++
		if came := time.Unix(st.Mtim.Unix()); came.After(i.Created) {
			i.Created = came
		}
		if path == name+lockSuffix {
			i.holding = &partial{name, st.Ino}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(items)) {
		v.add(items[name], items[name].ID)
	}
	return nil
}

// addCorrupt adds what was put aside. Nobody uses it.
func (v *inventory) addCorrupt(ctx context.Context) error {
	var paths []string
	for _, dir := range v.Folders() {
		in, err := filepath.Glob(filepath.Join(dir, "corrupt", "*"))
		if err != nil {
			return err
		}
		paths = append(paths, in...)
	}
	for _, path := range paths {
		i := &Item{ID: filepath.Base(path), Type: KindCorrupt, Description: "put aside", holding: aside(path)}
		if info, err := os.Lstat(path); err == nil {
			i.Created = info.ModTime()
		}
		size, err := measureTree(ctx, path, nil)
		if err != nil {
			return err
		}
		i.Size, i.Inodes = size.Size, size.Inodes
		v.add(i, i.ID)
	}
	return nil
}

// lookInUse finds out which items are in use, and with them what they stand on.
func (v *inventory) lookInUse(ctx context.Context) error {
	locked, err := locks.Held()
	if err != nil {
		return err
	}
	for _, i := range v.items {
		if i.InUse = v.isInUse(i, locked); i.InUse {
			for up := i.parent; up != nil && !up.InUse; up = up.parent {
				up.InUse = true
			}
		}
	}
	return ctx.Err()
}

// measureOther measures what is no item.
func (v *inventory) measureOther(ctx context.Context) error {
	counts := func(rel string) (own, below bool) {
		parts := strings.Split(rel, "/")
		switch parts[0] {
		case "snapshots", "failed", "corrupt", "caches", "partial":
			return true, false
		case "mirrors":
			own = len(parts) == 1 || parts[1] == "latest"
			return own, own
		case "trees":
			return true, len(parts) == 1
		case "downloads":
			return true, len(parts) == 1 || parts[1] == "urls"
		case "layout", "records":
			return true, len(parts) < 3
		}
		return true, true
	}
	for _, dir := range v.Folders() {
		other, err := measureTree(ctx, dir, counts)
		if err != nil {
			return err
		}
		v.other.Size += other.Size
		v.other.Inodes += other.Inodes
	}
	return nil
}

// measureTree measures a file, or a folder with all that is in it. For each path in the folder, counts
// reports whether that itself counts, and whether what is below it does; nil counts everything.
func measureTree(ctx context.Context, root string, counts func(rel string) (own, below bool)) (Other, error) {
	var sum Other
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed just now
		}
		if err != nil {
			return err
		}
		own, below := true, true
		if counts != nil && path != root {
			own, below = counts(path[len(root)+1:])
		}
		var st unix.Stat_t
		if own && unix.Lstat(path, &st) == nil {
			sum.Size += st.Blocks * 512
			sum.Inodes++
		}
		if !below && e.IsDir() {
			return fs.SkipDir
		}
		return ctx.Err()
	})
	return sum, err
}
