package build

import (
	"context"
	"os"
	"regexp"
	"sync"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// current is what the last builds of all layers have, by id and by digest.
type current map[string]bool

// markCurrent marks the items that the last build of some layer has, of
// stackerfiles that are still there: records, snapshots, packed layers, bases and
// trees. Downloads are current while they are what a URL gave last.
func (v *inventory) markCurrent(ctx context.Context) error {
	latest, err := v.cache.AllLatest()
	if err != nil {
		return err
	}
	now := current{}
	for _, l := range latest {
		if _, err := os.Lstat(l.Stackerfile); err != nil && !layers.IsURL(l.Stackerfile) {
			continue
		}
		for kind, key := range l.Keys {
			if record, err := v.cache.Get(kind, key); key != "" && err == nil {
				now.add(record)
			}
		}
	}
	for _, i := range v.items {
		if i.diff != "" && now[i.ID] {
			for at := i; at != nil; at = at.parent {
				now[at.ID], now[string(at.diff)] = true, true
				for _, b := range at.blobs {
					now[string(b)] = true
				}
			}
		}
	}
	for _, i := range v.items {
		if i.top != "" && now[string(i.top)] {
			now[i.ID] = true
		}
	}
	if err := v.addSmaller(ctx, now); err != nil {
		return err
	}
	for _, i := range v.items {
		i.current = i.current || now[i.ID]
		for _, b := range i.blobs {
			i.current = i.current || now[string(b)]
		}
	}
	return nil
}

// digestText finds digests in the inputs of a record.
var digestText = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// add adds a rootfs or labels record, and all that it names.
func (c current) add(r *buildcache.Record) {
	c[string(r.Kind)+"/"+string(r.Key)] = true
	c[r.Origin.Manifest] = true
	for _, in := range r.Inputs {
		for _, d := range digestText.FindAllString(in.Value, -1) {
			c[d] = true
		}
	}
	for _, layer := range layersOf(r) {
		c[string(layer.id)], c[string(layer.diff)] = true, true
	}
}

// addSmaller adds the records of what is smaller than a layer: those that were
// made of something current, and bases.
func (v *inventory) addSmaller(ctx context.Context, now current) error {
	entries, err := v.cache.Entries(ctx, buildcache.Digest, buildcache.Pack, buildcache.Resolve)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var more []string
	err = v.cache.Each(ctx, entries, func(r *buildcache.Record) {
		isCurrent := false
		results := digestText.FindAllString(string(r.Result), -1)
		if r.Kind == buildcache.Resolve {
			isCurrent = len(results) == 1 && now[results[0]]
		}
		for _, in := range r.Inputs {
			isCurrent = isCurrent || now[in.Value]
		}
		if isCurrent {
			mu.Lock()
			defer mu.Unlock()
			more = append(append(more, string(r.Kind)+"/"+string(r.Key)), results...)
		}
	})
	for _, id := range more {
		now[id] = true
	}
	return err
}
