package build

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/buildcache"
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
	blobs   []digest.Digest
	remove  func(ctx context.Context) error // all but the blobs
	inUse   func() bool
	locks   []uint64    // the inodes of all that is locked when it is in use, if that is known
	graves  [][2]string // kinds and ids of its tombstones
	parent  *Item
}

// Bytes is what the item takes on disk.
func (i *Item) Bytes() int64 { return i.Size + i.Blob }

// An inventory is all that a state folder holds.
type inventory struct {
	*rooms
	items []*Item
	other Other

	listing *overlay.Listing
	disk    map[digest.Digest]oci.Stored
	users   map[digest.Digest]int // how many items have a blob
	shared  map[digest.Digest]bool
	packed  map[digest.Digest][]digest.Digest // DiffID → blobs
	usage   map[string]buildcache.Usage
}

// Other is what a state folder needs for itself: it is no item, and not removed.
type Other struct {
	Size   int64 `json:"size"`
	Inodes int64 `json:"inodes"`
}

// take lists all that the rooms hold, without waiting for those who use it.
func (r *rooms) take(ctx context.Context) (*inventory, error) {
	v := &inventory{rooms: r, disk: map[digest.Digest]oci.Stored{}, users: map[digest.Digest]int{}, packed: map[digest.Digest][]digest.Digest{}}
	var err error
	if v.usage, err = r.cache.Usage(); err != nil {
		return nil, err
	}
	if v.shared, err = r.sharedBlobs(); err != nil {
		return nil, err
	}
	for _, add := range []func(context.Context) error{
		v.addBlobs, v.addSnapshots, v.addLooseBlobs, v.addImports, v.addRecords, v.addCaches, v.addCorrupt,
	} {
		if err := add(ctx); err != nil {
			return nil, err
		}
	}
	return v, v.measureOther(ctx)
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
func (v *inventory) addBlobs(ctx context.Context) error {
	stored, err := v.blobs.Blobs()
	if err != nil {
		return err
	}
	for _, b := range stored {
		v.disk[b.Digest] = b
	}
	records, err := v.cache.Entries(ctx, buildcache.Pack)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	err = v.cache.Each(ctx, records, func(r *buildcache.Record) {
		var d oci.Descriptor
		if json.Unmarshal(r.Result, &d) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		v.pair(digest.Digest(diffOf(r)), d.Digest)
	})
	if err != nil {
		return err
	}
	loose := slices.DeleteFunc(stored, func(b oci.Stored) bool { return v.users[b.Digest] == -1 })
	for _, base := range v.blobs.Bases(loose) {
		v.addBase(base)
	}
	return nil
}

// pair notes that a blob is the packed form of a DiffID; users is -1 for a blob
// that is one, until an item has it.
func (v *inventory) pair(diff, blob digest.Digest) {
	if _, there := v.disk[blob]; there && !slices.Contains(v.packed[diff], blob) {
		v.packed[diff] = append(v.packed[diff], blob)
		v.users[blob] = -1
	}
}

func (v *inventory) addBase(base oci.StoredBase) {
	for _, layer := range base.Layers {
		v.pair(layer.DiffID, layer.Digest)
	}
	i := &Item{
		ID: base.Manifest.Digest.String(), Type: KindBase, Description: "manifest and config of a base image",
		Created: time.Unix(v.disk[base.Manifest.Digest].Time, 0),
		graves:  [][2]string{{buildcache.BuryBlob, base.Manifest.Digest.Encoded()}},
	}
	if n := len(base.Layers); n > 0 {
		i.top = base.Layers[n-1].Digest
	}
	v.add(i, base.Manifest.Digest.Encoded(), base.Manifest.Digest, base.Config.Digest)
}

// add adds an item that has these blobs, and counts it by the id that builds use.
func (v *inventory) add(i *Item, hex string, blobs ...digest.Digest) {
	for _, d := range blobs {
		b, there := v.disk[d]
		if !there {
			continue
		}
		i.blobs, i.locks = append(i.blobs, d), append(i.locks, b.Inode)
		i.Shared = i.Shared || v.shared[d]
		if v.users[d] <= 0 {
			v.users[d] = 0
			i.Blob += b.Disk
			i.Inodes++
		}
		v.users[d]++
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

func (v *inventory) addSnapshots(ctx context.Context) (err error) {
	if v.listing, err = v.snapshots.List(ctx); err != nil {
		return err
	}
	byID := make(map[digest.Digest]*Item, len(v.listing.Snapshots))
	ids := make([]digest.Digest, 0, len(v.listing.Snapshots))
	for id := range v.listing.Snapshots {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		snap := v.listing.Snapshots[id]
		i := &Item{
			ID: id.String(), Type: snap.Kind, Description: snap.Description, Parent: snap.Parent.String(),
			Created: snap.Created, Size: snap.Disk, Inodes: snap.DiskInodes, Holds: snap.Children, diff: snap.DiffID,
			locks:  []uint64{snap.Inode},
			inUse:  func() bool { return v.snapshots.InUse(id) },
			remove: func(ctx context.Context) error { return v.snapshots.RemoveListed(ctx, v.listing, id) },
			graves: [][2]string{{buildcache.BurySnapshot, id.Encoded()}},
		}
		switch {
		case snap.Err != nil:
			i.Type, i.Description = KindCorrupt, snap.Err.Error()
		case !slices.Contains(Kinds(), i.Type): // of an earlier layerbuild
			i.Type = KindLayer
		}
		v.add(i, id.Encoded(), v.packed[snap.DiffID]...)
		byID[id] = i
	}
	for _, id := range ids {
		byID[id].parent = byID[v.listing.Snapshots[id].Parent]
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
	return nil
}

// addLooseBlobs adds the layers that are packed, but not on disk.
func (v *inventory) addLooseBlobs(context.Context) error {
	var loose []digest.Digest
	for d := range v.disk {
		if v.users[d] <= 0 {
			loose = append(loose, d)
		}
	}
	slices.Sort(loose)
	for _, d := range loose {
		kind := KindBase
		if v.users[d] == -1 {
			kind = KindLayer
		}
		v.add(&Item{
			ID: d.String(), Type: kind, Description: "packed layer", Created: time.Unix(v.disk[d].Time, 0),
			graves: [][2]string{{buildcache.BuryBlob, d.Encoded()}},
		}, d.Encoded(), d)
	}
	return nil
}

func (v *inventory) addImports(ctx context.Context) error {
	stored, err := v.sources.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range stored {
		i := &Item{
			ID: s.Digest.String(), Type: KindTree, Created: time.Unix(s.Time, 0), Size: s.Disk, Inodes: s.Inodes,
			inUse:  func() bool { return v.sources.InUse(ctx, s) },
			remove: func(ctx context.Context) error { return v.sources.Remove(ctx, s) },
		}
		if s.Download {
			i.Type, i.Description, i.current = KindDownload, s.URL, s.URL != ""
		}
		v.add(i, s.Digest.Encoded())
	}
	return nil
}

func (v *inventory) addRecords(ctx context.Context) error {
	entries, err := v.cache.Entries(ctx, buildcache.Kinds()...)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var graves [][2]string
		if e.Kind == buildcache.Rootfs || e.Kind == buildcache.Labels { // whose misses are explained
			graves = [][2]string{{string(e.Kind), string(e.Key)}}
		}
		v.add(&Item{
			ID: string(e.Kind) + "/" + string(e.Key), Type: KindRecord, Description: string(e.Kind) + " step",
			Created: time.Unix(e.Time, 0), Size: e.Disk, Inodes: 1,
			remove: func(context.Context) error { return v.cache.RemoveRecord(e.Kind, e.Key) },
			graves: graves,
		}, string(e.Key))
	}
	return nil
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
	locked, err := lockedInodes()
	if err != nil {
		return err
	}
	for _, i := range v.items {
		free := len(i.locks) > 0 && !slices.ContainsFunc(i.locks, func(ino uint64) bool { return locked[ino] })
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
	return i.inUse != nil && i.inUse() || slices.ContainsFunc(i.blobs, v.blobs.InUse)
}

// measureOther measures what is no item.
func (v *inventory) measureOther(ctx context.Context) error {
	items := func(rel string, e fs.DirEntry) bool {
		parts := strings.Split(rel, "/")
		switch parts[0] {
		case "snapshots", "failed", "corrupt", "caches":
			return len(parts) > 1
		case "mirrors":
			return len(parts) > 1 && parts[1] != "latest"
		case "layout":
			return len(parts) == 4
		case "records", "trees":
			return !e.IsDir()
		case "downloads":
			return !e.IsDir() && parts[1] != "urls"
		}
		return false
	}
	for _, dir := range v.folders() {
		other, err := measureTree(ctx, dir, items)
		if err != nil {
			return err
		}
		v.other.Size += other.Size
		v.other.Inodes += other.Inodes
	}
	return nil
}

// measureTree measures a file, or a folder with all that is in it but what leave
// says, by its path in the folder.
func measureTree(ctx context.Context, root string, leave func(rel string, e fs.DirEntry) bool) (Other, error) {
	var sum Other
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed just now
		}
		if err != nil {
			return err
		}
		if leave != nil && path != root && leave(path[len(root)+1:], e) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			sum.Size += st.Blocks * 512
			sum.Inodes++
		}
		return ctx.Err()
	})
	return sum, err
}
