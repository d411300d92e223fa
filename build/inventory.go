package build

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
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
)

// Kinds of what a state folder holds.
const (
	KindBase      = "base"       // of an image from outside: a layer, or its manifest and config
	KindLayer     = "layer"      // made by a step
	KindBuildOnly = "build-only" // the same, of a layer that makes no image
	KindTree      = "tree"       // the manifest of an import, and the copy that runs see
	KindDownload  = "download"   // a file behind a URL
	KindRecord    = "record"     // what a step read and gave
	KindCache     = "cache"      // a folder that steps keep between builds
	KindFailed    = "failed"     // what a failed step left, kept by --keep-failed
	KindCorrupt   = "corrupt"    // what was found damaged and put aside
)

// Kinds lists them.
func Kinds() []string {
	return []string{KindBase, KindLayer, KindBuildOnly, KindTree, KindDownload, KindRecord, KindCache, KindFailed, KindCorrupt}
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
	Mut    bool  `json:"mutable"`  // it can still change: the rest of a failed step
	Holds  int   `json:"children"` // what stands on it

	usageID string
	gone    bool          // by a rule before
	current bool          // the last build of some layer has it: see markCurrent
	diff    digest.Digest // DiffID of a snapshot
	top     digest.Digest // the highest layer of the base that this is the manifest of
	blobs   []*blob
	remove  func(ctx context.Context) error // all but the blobs
	inUse   func() bool
	locks   []uint64 // the inodes of all that is locked when it is in use, if that is known
	grave   string   // the kind of its tombstone, which has usageID; "" without one
	parent  *Item
}

// Bytes is what the item takes on disk.
func (i *Item) Bytes() int64 { return i.Size + i.Blob }

// An inventory is all that a state folder holds.
type inventory struct {
	*rooms
	items []*Item
	other Other

	// What the rooms say.
	facts   *facts
	records []*record
	last    []lastBuild
	imports []imports.Stored
	listing *overlay.Listing
	stored  []oci.Stored
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

// take lists all that the rooms hold, without waiting for those who use it.
func (r *rooms) take(ctx context.Context) (*inventory, error) {
	// All that is read here stays: to look for garbage is a quarter of the time.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	v := &inventory{rooms: r}
	if err := v.read(ctx); err != nil {
		return nil, err
	}
	v.facts.store()
	v.addBlobs()
	v.addSnapshots()
	v.addLooseBlobs()
	v.addImports()
	v.addRecords()
	for _, add := range []func(context.Context) error{v.addCaches, v.addCorrupt} {
		if err := add(ctx); err != nil {
			return nil, err
		}
	}
	return v, v.measureOther(ctx)
}

// read reads what each room has, all at the same time.
func (v *inventory) read(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { v.stored, err = v.blobs.Blobs(ctx); return err })
	group.Go(func() (err error) { v.imports, err = v.sources.List(ctx); return err })
	group.Go(func() (err error) { v.usage, err = v.cache.Usage(); return err })
	group.Go(func() (err error) { v.shared, err = v.sharedBlobs(); return err })
	v.facts = openFacts(v.state)
	group.Go(func() (err error) { v.listing, err = v.snapshots.List(ctx, v.knownSnapshot); return err })
	group.Go(func() error { return v.readRecords(ctx) })
	group.Go(func() error { return v.readLastBuilds(ctx) })
	err := group.Wait()
	if err == nil {
		v.noteSnapshots()
	}
	return err
}

// sharedBlobs are the blobs of all OCI layouts that builds wrote to.
func (r *rooms) sharedBlobs() (map[digest.Digest]bool, error) {
	paths, err := r.cache.Layouts()
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
	for _, b := range v.stored {
		v.byDigest[b.Digest] = &blob{Stored: b}
	}
	for _, r := range v.records {
		if r.kind != buildcache.Pack {
			continue
		}
		for _, diff := range r.inputs {
			for _, blob := range r.results {
				v.pair(digest.Digest(diff), digest.Digest(blob))
			}
		}
	}
	loose := slices.DeleteFunc(v.stored, func(b oci.Stored) bool { return v.byDigest[b.Digest].isLayer })
	for _, base := range v.blobs.Bases(loose) {
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
		i.locks = append(i.locks, b.Inode)
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
	snaps := slices.SortedFunc(maps.Values(v.listing.Snapshots), func(a, b *overlay.Listed) int { return cmp.Compare(a.ID, b.ID) })
	byID := make(map[digest.Digest]*Item, len(snaps))
	for _, snap := range snaps {
		id := snap.ID
		i := &Item{
			ID: id.String(), Type: snap.Kind, Description: snap.Description, Parent: snap.Parent.String(),
			Created: snap.Created, Size: snap.Disk, Inodes: snap.DiskInodes, Holds: snap.Children, diff: snap.DiffID,
			locks:  []uint64{snap.Inode},
			inUse:  func() bool { return v.snapshots.InUse(id) },
			remove: func(ctx context.Context) error { return v.snapshots.RemoveListed(ctx, v.listing, id) },
			grave:  buildcache.BurySnapshot,
		}
		switch {
		case snap.Err != nil:
			i.Type, i.Description = KindCorrupt, snap.Err.Error()
		case !slices.Contains(Kinds(), i.Type): // of an earlier layerbuild
			i.Type = KindLayer
		}
		v.add(i, id.Encoded(), v.forms[snap.DiffID]...)
		byID[id] = i
	}
	for _, snap := range snaps {
		byID[snap.ID].parent = byID[snap.Parent]
	}
	for _, kept := range v.listing.Kept {
		v.add(&Item{
			ID: kept.Name, Type: KindFailed, Description: kept.Description, Parent: kept.Parent.String(),
			Created: kept.Time, Size: kept.Size, Inodes: kept.Inodes, Mut: true, parent: byID[kept.Parent],
			inUse: func() bool { return v.snapshots.KeptInUse(kept.Name) },
			remove: func(context.Context) error {
				err := v.snapshots.RemoveKept(kept.Name)
				if err == nil {
					v.listing.DropKept(kept.Name)
				}
				return err
			},
		}, kept.Name)
	}
}

// addLooseBlobs adds the layers that are packed, but not on disk.
func (v *inventory) addLooseBlobs() {
	var loose []*blob
	for _, b := range v.byDigest {
		if b.users == 0 {
			loose = append(loose, b)
		}
	}
	slices.SortFunc(loose, func(a, b *blob) int { return cmp.Compare(a.Digest, b.Digest) })
	for _, b := range loose {
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
	for _, s := range v.imports {
		i := &Item{
			ID: s.Digest.String(), Type: KindTree, Created: time.Unix(s.Time, 0), Size: s.Disk, Inodes: s.Inodes,
			locks:  s.Locks,
			inUse:  func() bool { return v.sources.InUse(s) },
			remove: func(context.Context) error { return v.sources.Remove(s) },
		}
		if s.Download {
			i.Type, i.Description, i.current = KindDownload, s.URL, s.URL != ""
		}
		v.add(i, s.Digest.Encoded())
	}
}

func (v *inventory) addRecords() {
	for _, r := range v.records {
		var grave string
		if r.kind == buildcache.Rootfs || r.kind == buildcache.Labels { // whose misses are explained
			grave = string(r.kind)
		}
		v.add(&Item{
			ID: r.id(), Type: KindRecord, Description: string(r.kind) + " step",
			Created: time.Unix(r.time, 0), Size: r.disk, Inodes: 1,
			remove: func(context.Context) error { return v.cache.RemoveRecord(r.kind, r.key) },
			grave:  grave,
		}, string(r.key))
	}
}

// addCaches adds the caches of steps. They change as steps run, so they are measured.
func (v *inventory) addCaches(ctx context.Context) error {
	stored, err := v.caches.List()
	if err != nil {
		return err
	}
	for _, c := range stored {
		i := &Item{
			ID: c.Name, Type: KindCache, Description: "cache mount " + c.ID, Created: c.Created, Mut: true, locks: []uint64{c.Inode},
			inUse:  func() bool { return v.caches.InUse(c.Name) },
			remove: func(context.Context) error { return v.caches.Remove(c.Name) },
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

// addCorrupt adds what was put aside. Nobody uses it.
func (v *inventory) addCorrupt(ctx context.Context) error {
	var paths []string
	for _, dir := range v.folders() {
		in, err := filepath.Glob(filepath.Join(dir, "corrupt", "*"))
		if err != nil {
			return err
		}
		paths = append(paths, in...)
	}
	for _, path := range paths {
		i := &Item{ID: filepath.Base(path), Type: KindCorrupt, Description: "put aside", remove: func(context.Context) error { return os.RemoveAll(path) }}
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
		free := len(i.locks) > 0 && !slices.ContainsFunc(i.locks, func(ino uint64) bool { return locked[ino] != 0 })
		if i.InUse = !free && v.isInUse(i); i.InUse {
			for up := i.parent; up != nil && !up.InUse; up = up.parent {
				up.InUse = true
			}
		}
	}
	return ctx.Err()
}

// isInUse tells whether some process uses an item itself.
func (v *inventory) isInUse(i *Item) bool {
	return i.inUse != nil && i.inUse() || slices.ContainsFunc(i.blobs, func(b *blob) bool { return v.blobs.InUse(b.Digest) })
}

// measureOther measures what is no item.
func (v *inventory) measureOther(ctx context.Context) error {
	counts := func(rel string) (own, below bool) {
		parts := strings.Split(rel, "/")
		switch parts[0] {
		case "snapshots", "failed", "corrupt", "caches":
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
	for _, dir := range v.folders() {
		other, err := measureTree(ctx, dir, counts)
		if err != nil {
			return err
		}
		v.other.Size += other.Size
		v.other.Inodes += other.Inodes
	}
	return nil
}

// measureTree measures a file, or a folder with all that is in it. By its path in
// the folder, counts says of each file or folder whether it counts itself, and
// whether what is in it does; nil says yes.
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
