package history

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
)

// A side is one of two builds that are compared, with its records and trees.
type side struct {
	title  string
	report *explain.Report // nil for a single record
	record func(layer string) *buildcache.Record
	tree   treeReader
}

// A treeReader returns the entries of a tree.
type treeReader = func(digest.Digest) ([]imports.Entry, error)

// side returns a build of this state folder as a side.
func (p *Past) side(title string, r *explain.Report) *side {
	keys := map[string]buildcache.Key{}
	for _, l := range r.Layers {
		keys[l.Name] = buildcache.Key(l.Key)
	}
	return &side{
		title:  title,
		report: r,
		record: func(layer string) *buildcache.Record {
			record, err := p.cache.Get(buildcache.Rootfs, keys[layer])
			if err != nil {
				return nil
			}
			return record
		},
		tree: p.sources.Entries,
	}
}

// Against compares a build with what: another build by its number, a record by the
// beginning of its key, a bundle by its path, or the last build of another state folder.
func (p *Past) Against(ctx context.Context, r *explain.Report, what string) (*explain.Report, error) {
	info, err := os.Stat(what)
	number, notNumber := strconv.Atoi(what)
	var other *side
	switch {
	case err == nil && info.IsDir():
		past, err := Open(ctx, what)
		if err != nil {
			return nil, err
		}
		defer past.Close()
		last, err := past.lastLike(r)
		if err != nil {
			return nil, err
		}
		other = past.side(fmt.Sprintf("build %d of %s in %s", last.Build.Number, last.Build.Stackerfile, what), last)
	case err == nil:
		if other, err = bundleSide(what); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	case notNumber == nil && len(what) < minKey:
		return p.AgainstBuild(r, number)
	default:
		record, err := p.recordOf(what)
		if err != nil {
			return nil, err
		}
		title := fmt.Sprintf("the record of layer %s of %s", record.Origin.Layer, record.Origin.Stackerfile)
		other = &side{title: title, record: func(string) *buildcache.Record { return record }, tree: p.sources.Entries}
	}
	return compareSides(p.side("", r), other), nil
}

// AgainstBuild compares a build with another build of the same state folder.
func (p *Past) AgainstBuild(r *explain.Report, number int) (*explain.Report, error) {
	before, err := p.Build(number)
	if err != nil {
		return nil, err
	}
	return compareSides(p.side("", r), p.side(fmt.Sprintf("build %d", number), before)), nil
}

// lastLike returns the last build that has a layer of a name in r.
func (p *Past) lastLike(r *explain.Report) (*explain.Report, error) {
	builds, err := p.Builds()
	if err != nil {
		return nil, err
	}
	for _, other := range builds {
		for _, l := range other.Layers {
			if slices.ContainsFunc(r.Layers, func(m explain.Layer) bool { return m.Name == l.Name }) {
				return other, nil
			}
		}
	}
	return nil, fmt.Errorf("no build in %s has a layer of build %d", p.dir, r.Build.Number)
}

// minKey is how many digits of a key it takes to name a record.
const minKey = 6

// recordOf returns the rootfs record whose key begins with prefix. It fails if there are several.
func (p *Past) recordOf(prefix string) (*buildcache.Record, error) {
	if len(prefix) < minKey || strings.Trim(prefix, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%q is no build's number, no file or folder, and no beginning of a record's key", prefix)
	}
	keys, err := p.cache.Keys(buildcache.Rootfs, prefix)
	if err != nil {
		return nil, err
	}
	if len(keys) != 1 {
		return nil, fmt.Errorf("%d records have a key that begins with %s", len(keys), prefix)
	}
	return p.cache.Get(buildcache.Rootfs, keys[0])
}

// compareSides compares each layer of one build with the layer of that name in another.
func compareSides(here, there *side) *explain.Report {
	out := *here.report
	out.Against = there.title
	out.Layers = []explain.Layer{}
	for _, l := range here.report.Layers {
		told := explain.Layer{Name: l.Name, Needs: l.Needs, Key: l.Key, Result: l.Result, Seconds: l.Seconds, Outcome: explain.Absent}
		told.There = outcomeIn(there.report, l.Name)
		was, is := there.record(l.Name), here.record(l.Name)
		switch {
		case is == nil:
			told.Outcome = explain.NotReached
		case was == nil:
		default:
			compareRecords(&told, was, is, portable(there.tree), portable(here.tree))
		}
		out.Layers = append(out.Layers, told)
	}
	return &out
}

// compareRecords adds to told how the inputs of a step differ from those of another one.
func compareRecords(told *explain.Layer, was, is *buildcache.Record, there, here treeReader) {
	told.Baseline = explain.BaselineOf(was, explain.BaselineAgainst)
	told.Outcome = explain.Same
	if was.Key == is.Key {
		return
	}
	told.Outcome = explain.Differs
	told.Reasons = explain.Compare(
		explain.Side{Inputs: was.Inputs, Origin: was.Origin, Tree: there},
		explain.Side{Inputs: is.Inputs, Origin: is.Origin, Tree: here}, 0)
	told.Hint = explain.HintFor(told.Reasons)
}

// outcomeIn returns the outcome of a layer in a build, and the codes of its reasons.
func outcomeIn(r *explain.Report, layer string) string {
	if r == nil {
		return ""
	}
	for _, l := range r.Layers {
		if l.Name != layer {
			continue
		}
		words := []string{l.Outcome}
		for _, reason := range l.Reasons {
			words = append(words, string(reason.Code))
		}
		return strings.Join(words, " ")
	}
	return ""
}

// portable makes the entries of this machine comparable with those of a bundle, which holds
// digests of extended attributes instead of their values.
func portable(tree treeReader) treeReader {
	return func(d digest.Digest) ([]imports.Entry, error) {
		shared, err := tree(d)
		entries := slices.Clone(shared)
		for i := range entries {
			entries[i].Xattrs = slices.Clone(entries[i].Xattrs)
			for j, x := range entries[i].Xattrs {
				if !strings.HasPrefix(x.Value, string(digest.SHA256)+":") {
					entries[i].Xattrs[j].Value = string(digest.FromString(x.Value))
				}
			}
		}
		return entries, err
	}
}
