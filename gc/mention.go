package gc

import (
	"context"
	"iter"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
)

// digests are the sha256 digests that something mentions, one after the other: what
// ties the items of a state folder together.
type digests string

// digestText finds digests in a text.
var digestText = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

const digestSize = len("sha256:") + 64

func digestsIn(text string) digests {
	return digests(strings.Join(digestText.FindAllString(text, -1), ""))
}

func (d digests) all() iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		for ; len(d) >= digestSize && yield(digest.Digest(d[:digestSize])); d = d[digestSize:] {
		}
	}
}

// mentionedIn returns the digests in a record's inputs, with the manifest of its
// base, and those in its result; of a rootfs record, the ids and DiffIDs of its layers.
func mentionedIn(r *buildcache.Record) (inputs, results digests) {
	for _, in := range r.Inputs {
		inputs += digestsIn(in.Value)
	}
	inputs += digestsIn(r.Origin.Manifest)
	if r.Kind != buildcache.Rootfs {
		results = digestsIn(string(r.Result))
	}
	for _, layer := range r.AddedLayers() {
		results += digestsIn(string(layer.ChainID) + " " + string(layer.DiffID))
	}
	return inputs, results
}

// A record is one of the state folder's.
type record struct {
	kind            buildcache.Kind
	key             buildcache.Key
	disk, time      int64   // of its file
	inputs, results digests // that it mentions
	maker           string  // the layer whose step it is of, as people name it
}

// readRecords lists all records and what they mention.
func (v *inventory) readRecords(ctx context.Context) error {
	folders, err := v.Cache.RecordFolders(buildcache.Kinds()...)
	if err != nil {
		return err
	}
	read := func(files []buildcache.Entry, found func(buildcache.Entry, ...string)) error {
		return v.Cache.Each(ctx, files, func(e buildcache.Entry, r *buildcache.Record) {
			inputs, results := mentionedIn(r)
			found(e, string(inputs), string(results), r.Origin.String())
		})
	}
	return v.facts.recall(v.Cache, folders, read, func(folder buildcache.Folder, file string, r *factReader) {
		if kind, key, ok := folder.Record(file); ok {
			v.records = append(v.records, &record{kind, key, r.number(), r.number(), digests(r.text()), digests(r.text()), r.text()})
		}
	})
}

// A lastBuild is the last build of one layer.
type lastBuild struct {
	stackerfile string
	keys        []buildcache.Key // of its records
}

// readLastBuilds lists those of all layers of all stackerfiles.
func (v *inventory) readLastBuilds(ctx context.Context) error {
	folders, err := v.Cache.LatestFolders()
	if err != nil {
		return err
	}
	read := func(files []buildcache.Entry, found func(buildcache.Entry, ...string)) error {
		return v.Cache.EachLatest(ctx, files, func(e buildcache.Entry, l *buildcache.Latest) {
			texts := []string{l.Stackerfile}
			for _, key := range l.Keys {
				texts = append(texts, string(key))
			}
			found(e, texts...)
		})
	}
	return v.facts.recall(v.Cache, folders, read, func(_ buildcache.Folder, _ string, r *factReader) {
		r.number() // size and time
		r.number()
		last := lastBuild{stackerfile: r.text()}
		for r.left != "" {
			last.keys = append(last.keys, buildcache.Key(r.text()))
		}
		v.last = append(v.last, last)
	})
}

// The folders of blobs and snapshots, as facts name them.
const (
	blobsFolder     = "layout/blobs/sha256"
	snapshotsFolder = "snapshots"
)

// readBlobs lists all blobs. They are not looked at while none came or went.
func (v *inventory) readBlobs(ctx context.Context) error {
	inode, changed, err := v.Blobs.Stamp()
	if err != nil {
		return err
	}
	stamp := buildcache.Stamp{Inode: inode, Changed: changed}
	k, same := v.facts.find(blobsFolder, stamp)
	if !same {
		stored, err := v.Blobs.Blobs(ctx)
		if err != nil {
			return err
		}
		files := make([]fact, len(stored))
		for n, b := range stored {
			files[n] = fact{b.Digest.Encoded(), buildcache.Stamp{Inode: b.Inode}, saying([]int64{b.Size, b.Disk, b.Time})}
		}
		k = v.facts.note(blobsFolder, stamp, files, min(k.count, len(files)))
	}
	v.stored = make([]blob, 0, k.count)
	for at := range k.all() {
		r := factReader{left: at.says}
		v.stored = append(v.stored, blob{Stored: oci.Stored{
			Digest: digest.Digest("sha256:" + at.name), Size: r.number(), Disk: r.number(), Time: r.number(), Inode: at.stamp.Inode,
		}})
	}
	return nil
}

// readSnapshots lists all snapshots. Each is looked at, and read if it is another
// than it was.
func (v *inventory) readSnapshots(ctx context.Context) (err error) {
	k := v.facts.old[snapshotsFolder]
	earlier := overlay.Listing{Stamp: overlay.Stamp(k.stamp)}
	for at := range k.all() {
		r := factReader{left: at.says}
		snap := &overlay.Listed{Stamp: overlay.Stamp(at.stamp)}
		snap.ID = digest.Digest("sha256:" + at.name)
		snap.Size, snap.Inodes, snap.Disk, snap.DiskInodes = r.number(), r.number(), r.number(), r.number()
		snap.Created = time.Unix(0, r.number()).UTC()
		snap.DiffID, snap.Parent = digest.Digest(r.text()), digest.Digest(r.text())
		snap.Kind, snap.Description = r.text(), r.text()
		earlier.Snapshots = append(earlier.Snapshots, snap)
	}
	if v.listing, err = v.Snapshots.List(ctx, earlier); err != nil {
		return err
	}
	if v.listing.Same == k.count {
		if _, same := v.facts.find(snapshotsFolder, buildcache.Stamp(v.listing.Stamp)); same {
			return nil
		}
	}
	v.noteSnapshots()
	return nil
}

// noteSnapshots keeps what was read of snapshots, but for damaged ones.
func (v *inventory) noteSnapshots() {
	stamp := buildcache.Stamp(v.listing.Stamp)
	var files []fact
	for _, s := range v.listing.Snapshots {
		if s.Err != nil {
			stamp = buildcache.Stamp{}
			continue
		}
		files = append(files, fact{s.ID.Encoded(), buildcache.Stamp(s.Stamp), saying(
			[]int64{s.Size, s.Inodes, s.Disk, s.DiskInodes, s.Created.UnixNano()}, string(s.DiffID), string(s.Parent), s.Kind, s.Description)})
	}
	v.facts.note(snapshotsFolder, stamp, files, v.listing.Same)
}
