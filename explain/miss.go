package explain

import "github.com/layerbuild/layerbuild/buildcache"

// A Miss is what is known of a step that is not found in the cache.
type Miss struct {
	NoCache   bool     // the user wants it done again
	Untracked []string // binds that nobody watches
	First     bool     // the layer was never built from this stackerfile
	Former    bool     // its last record is of a former release, which cannot be compared with
	Changed   []Reason // in what its inputs differ from those of another record
	Gone      *Reason  // what is gone of the result of these very inputs
	Failed    bool     // the last build of these very inputs failed
}

// Reasons returns the causes of the miss, those that the user has made first. What
// became of the result of the same inputs comes after what changed: who changes
// that back has a hit all the same.
func (m Miss) Reasons() (reasons []Reason) {
	if m.NoCache {
		reasons = append(reasons, Reason{Code: buildcache.NoCache})
	}
	for _, path := range m.Untracked {
		reasons = append(reasons, Reason{Code: buildcache.Untracked, Name: "bind " + path})
	}
	if m.First {
		reasons = append(reasons, Reason{Code: buildcache.First})
	}
	if m.Former {
		reasons = append(reasons, Reason{Code: buildcache.Format, Name: "record"})
	}
	reasons = append(reasons, m.Changed...)
	if m.Gone != nil {
		reasons = append(reasons, *m.Gone)
	}
	if m.Failed {
		reasons = append(reasons, Reason{Code: buildcache.Failed})
	}
	return reasons
}

// Nearest returns the record that has most inputs in common with these, if they are
// half of them at least; otherwise nil. Of several it is the first. Inputs that most
// steps share do not count.
func Nearest(records []*buildcache.Record, in buildcache.Inputs) (best *buildcache.Record) {
	telling := map[buildcache.Input]bool{}
	for _, input := range in {
		switch input.Code {
		case buildcache.Format, buildcache.Epoch, buildcache.Platform:
		default:
			if input.Name != "network" {
				telling[input] = true
			}
		}
	}
	most := 0
	for _, r := range records {
		common := 0
		for _, input := range r.Inputs {
			if telling[input] {
				common++
			}
		}
		if common > most {
			best, most = r, common
		}
	}
	if 2*most < len(telling) {
		return nil
	}
	return best
}

// BaselineOf describes the record that a step was compared with.
func BaselineOf(r *buildcache.Record, kind string) *Baseline {
	return &Baseline{Kind: kind, Layer: r.Origin.Layer, Stackerfile: r.Origin.Stackerfile, Built: r.Created, Key: string(r.Key)}
}
