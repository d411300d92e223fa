package build

import (
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/overlay"
)

// A mention is the digests that a record names: what ties the items of a state
// folder together.
type mention struct {
	inputs  []string // in its inputs, and the manifest of its base
	results []string // in its result; of a rootfs record, the ids and DiffIDs of its layers
}

// digestText finds digests in the inputs of a record.
var digestText = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func mentionOf(r *buildcache.Record) (m mention) {
	for _, in := range r.Inputs {
		m.inputs = append(m.inputs, digestText.FindAllString(in.Value, -1)...)
	}
	if r.Origin.Manifest != "" {
		m.inputs = append(m.inputs, r.Origin.Manifest)
	}
	if r.Kind != buildcache.Rootfs {
		m.results = digestText.FindAllString(string(r.Result), -1)
	}
	for _, layer := range layersOf(r) {
		m.results = append(m.results, string(layer.id), string(layer.diff))
	}
	return m
}

// The words of a mention as a fact: "" stands between inputs and results.
func (m mention) words() []string {
	return slices.Concat(m.inputs, []string{""}, m.results)
}

func mentionIn(words []string) mention {
	n := slices.Index(words, "")
	if n < 0 {
		return mention{}
	}
	return mention{words[:n], words[n+1:]}
}

// A record is one of the state folder's.
type record struct {
	kind buildcache.Kind
	key  buildcache.Key
	mention
	disk, time int64 // of its file
}

// id is that of its item.
func (r *record) id() string { return string(r.kind) + "/" + string(r.key) }

// readRecords lists all records and what they mention.
func (v *inventory) readRecords(ctx context.Context) error {
	folders, err := v.cache.RecordFolders(buildcache.Kinds()...)
	if err != nil {
		return err
	}
	read := func(list []buildcache.Entry, got func(buildcache.Entry, []string)) error {
		return v.cache.Each(ctx, list, func(e buildcache.Entry, r *buildcache.Record) { got(e, mentionOf(r).words()) })
	}
	return v.facts.recall(v.cache, folders, read, func(e buildcache.Entry, words []string) {
		if kind, key, ok := e.Record(); ok {
			v.records = append(v.records, &record{kind, key, mentionIn(words), e.Disk, e.Time})
		}
	})
}

// A lastBuild is the last build of one layer.
type lastBuild struct {
	stackerfile string
	records     []string // the ids of their items
}

// readLastBuilds lists those of all layers of all stackerfiles.
func (v *inventory) readLastBuilds(ctx context.Context) error {
	folders, err := v.cache.LatestFolders()
	if err != nil {
		return err
	}
	read := func(list []buildcache.Entry, got func(buildcache.Entry, []string)) error {
		return v.cache.EachLatest(ctx, list, func(e buildcache.Entry, l *buildcache.Latest) {
			words := []string{l.Stackerfile}
			for kind, key := range l.Keys {
				words = append(words, string(kind)+"/"+string(key))
			}
			got(e, words)
		})
	}
	return v.facts.recall(v.cache, folders, read, func(_ buildcache.Entry, words []string) {
		if len(words) > 0 {
			v.last = append(v.last, lastBuild{words[0], words[1:]})
		}
	})
}

// knownSnapshot returns what is known of a snapshot without reading it.
func (v *inventory) knownSnapshot(id digest.Digest, at overlay.Stamp) (l overlay.Listed, ok bool) {
	words, ok := v.facts.find(string(id), at.Inode, at.Changed)
	if !ok || len(words) != 10 {
		return l, false
	}
	n, ok := numbers(words[:6])
	if !ok {
		return l, false
	}
	l.Size, l.Inodes, l.Disk, l.DiskInodes, l.Inode, l.Created = n[0], n[1], n[2], n[3], uint64(n[4]), time.Unix(0, n[5]).UTC()
	l.DiffID, l.Parent, l.Kind, l.Description = digest.Digest(words[6]), digest.Digest(words[7]), words[8], words[9]
	return l, true
}

// noteSnapshots keeps what was read of snapshots.
func (v *inventory) noteSnapshots() {
	for id, s := range v.listing.Snapshots {
		if _, known := v.facts.find(string(id), s.Stamp.Inode, s.Stamp.Changed); known || s.Err != nil {
			continue
		}
		words := texts(s.Size, s.Inodes, s.Disk, s.DiskInodes, int64(s.Inode), s.Created.UnixNano())
		v.facts.note(string(id), s.Stamp.Inode, s.Stamp.Changed, append(words, string(s.DiffID), string(s.Parent), s.Kind, s.Description))
	}
}
