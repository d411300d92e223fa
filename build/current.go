package build

import (
	"os"
	"slices"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// current is what the last builds of all layers have, by id and by digest.
type current map[string]bool

// markCurrent marks the items that the last build of some layer has, of
// stackerfiles that are still there: records, snapshots, packed layers, bases and
// trees. Downloads are current while they are what a URL gave last.
func (v *inventory) markCurrent() {
	now := current{}
	byID := make(map[string]*record, len(v.records))
	for _, r := range v.records {
		byID[r.id()] = r
	}
	there := map[string]bool{} // stackerfiles
	for _, last := range v.last {
		if _, known := there[last.stackerfile]; !known {
			_, err := os.Lstat(last.stackerfile)
			there[last.stackerfile] = err == nil || layers.IsURL(last.stackerfile)
		}
		if !there[last.stackerfile] {
			continue
		}
		for _, id := range last.records {
			if r := byID[id]; r != nil {
				now[id] = true
				now.add(r.inputs)
				now.add(r.results)
			}
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
		i.current = i.current || now[i.ID]
		for _, b := range i.blobs {
			i.current = i.current || now[string(b.Digest)]
		}
	}
}

func (c current) add(ids []string) {
	for _, id := range ids {
		c[id] = true
	}
}

// addSmaller adds the records of what is smaller than a layer: those that were
// made of something current, and bases.
func (v *inventory) addSmaller(now current) {
	isNow := func(id string) bool { return now[id] }
	var more []string
	for _, r := range v.records {
		switch r.kind {
		case buildcache.Digest, buildcache.Pack:
			if !slices.ContainsFunc(r.inputs, isNow) {
				continue
			}
		case buildcache.Resolve:
			if len(r.results) != 1 || !now[r.results[0]] {
				continue
			}
		default:
			continue
		}
		more = append(append(more, r.id()), r.results...)
	}
	now.add(more)
}
