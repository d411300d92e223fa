package gc

import (
	"os"
	"strings"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// current is what the last builds of all layers use: ids, digests, and the keys of records.
type current map[string]bool

// markKept marks the items that the last build of some layer uses, of stackerfiles that are still
// there: records, snapshots, packed layers, bases, trees, and the caches that such a layer took last.
// Downloads are kept while they are what a URL gave last.
func (v *inventory) markKept() {
	now := current{}
	there := map[string]bool{} // stackerfiles
	for _, last := range v.last {
		if _, known := there[last.stackerfile]; !known {
			_, err := os.Lstat(last.stackerfile)
			there[last.stackerfile] = err == nil || layers.IsURL(last.stackerfile)
		}
		if there[last.stackerfile] {
			for _, key := range last.keys {
				now[string(key)] = true
			}
		}
	}
	layers := map[string]bool{}
	for _, r := range v.records {
		if now[string(r.key)] {
			now.add(r.inputs)
			now.add(r.results)
			layers[layerOf(r.maker)] = true
		}
	}
	for _, i := range v.items {
		if i.diff != "" && now[i.ID] {
			for at := i; at != nil; at = at.parent {
				now[at.ID], now[string(at.diff)] = true, true
				for _, b := range at.blobs {
					now[string(b.Digest)] = true
				}
			}
		}
	}
	for _, i := range v.items {
		if i.top != "" && now[string(i.top)] {
			now[i.ID] = true
		}
	}
	v.addSmaller(now)
	for _, i := range v.items {
		i.Kept = i.Kept || now[i.ID] || i.Type == KindRecord && now[i.usageID]
		for _, b := range i.blobs {
			i.Kept = i.Kept || now[string(b.Digest)]
		}
		if cache, ok := i.holding.(cacheMount); ok {
			i.Kept = layers[cache.Layer]
		}
	}
}

// layerOf returns the name of the layer whose Origin is maker, as people read it.
func layerOf(maker string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(maker, "layer "), " of ./")
	return name
}

func (c current) add(all digests) {
	for d := range all.all() {
		c[string(d)] = true
	}
}

// addSmaller adds the records of what is smaller than a layer: those that were
// made of something current, and bases.
func (v *inventory) addSmaller(now current) {
	var more []*record
	for _, r := range v.records {
		from := r.inputs
		switch r.kind {
		case buildcache.Digest, buildcache.Pack:
		case buildcache.Resolve:
			from = r.results
		default:
			continue
		}
		for d := range from.all() {
			if now[string(d)] {
				more = append(more, r)
				break
			}
		}
	}
	for _, r := range more {
		now[string(r.key)] = true
		now.add(r.results)
	}
}
