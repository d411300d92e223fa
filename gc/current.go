package gc

import (
	"os"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// current is what the last builds of all layers have: ids, digests, and the keys of
// records.
type current map[string]bool

// markCurrent marks the items that the last build of some layer has, of
// stackerfiles that are still there: records, snapshots, packed layers, bases and
// trees. Downloads are current while they are what a URL gave last.
func (v *inventory) markCurrent() {
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
	for _, r := range v.records {
		if now[string(r.key)] {
			now.add(r.inputs)
			now.add(r.results)
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
		i.current = i.current || now[i.ID] || i.Type == KindRecord && now[i.usageID]
		for _, b := range i.blobs {
			i.current = i.current || now[string(b.Digest)]
		}
	}
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
