package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
)

// A Past is the builds that a state folder remembers.
type Past struct {
	dir     string
	cache   *buildcache.Cache
	sources *imports.Store
}

// OpenPast opens a state folder that is there.
func OpenPast(ctx context.Context, stateDir string) (*Past, error) {
	if _, err := os.Stat(filepath.Join(stateDir, "version")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("nothing was built with the state folder %s: `layerbuild build` comes first", stateDir)
	}
	cache, err := buildcache.Open(ctx, stateDir)
	if err != nil {
		return nil, err
	}
	sources, err := imports.Open(stateDir, imports.Options{NoStatIndex: true})
	if err != nil {
		_ = cache.Close()
		return nil, err
	}
	return &Past{stateDir, cache, sources}, nil
}

// Close ends the use of the state folder.
func (p *Past) Close() error { return errors.Join(p.sources.Close(), p.cache.Close()) }

// Builds returns what is told of each build that is remembered, the last one first.
func (p *Past) Builds() ([]*explain.Report, error) {
	numbers, err := p.cache.Builds()
	if err != nil {
		return nil, err
	}
	slices.Reverse(numbers)
	var all []*explain.Report
	for _, n := range numbers {
		if r, err := p.Build(n); err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// Build returns what is told of one build.
func (p *Past) Build(number int) (*explain.Report, error) {
	raw, err := p.cache.Build(number)
	switch {
	case errors.Is(err, buildcache.ErrNotFound):
		return nil, fmt.Errorf("there is no build %d in %s: `layerbuild history` lists what there is", number, p.dir)
	case errors.Is(err, buildcache.ErrCorrupt):
		return nil, fmt.Errorf("build %d has not ended, or was killed, or its journal is damaged", number)
	case err != nil:
		return nil, err
	}
	var r explain.Report
	return &r, json.Unmarshal(raw, &r)
}

// Last returns what is told of the last build of a stackerfile or, if none is
// remembered, of the last build at all.
func (p *Past) Last(stackerfile string) (*explain.Report, error) {
	path, err := placeOf(stackerfile)
	if err != nil {
		return nil, err
	}
	numbers, err := p.cache.Builds()
	if err != nil {
		return nil, err
	}
	var last *explain.Report
	for _, n := range slices.Backward(numbers) {
		r, err := p.Build(n)
		if err != nil {
			continue
		}
		if r.Build.Stackerfile == path {
			return r, nil
		}
		last = cmp.Or(last, r)
	}
	if last == nil {
		return nil, fmt.Errorf("no build is remembered in %s: `layerbuild build` comes first", p.dir)
	}
	return last, nil
}

// Only keeps the layers with these names, or all when there are none.
func Only(r *explain.Report, names []string) error {
	var known []string
	for _, l := range r.Layers {
		known = append(known, l.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("build %d has no layer %q%s", r.Build.Number, name, layers.DidYouMean(name, known))
		}
	}
	r.Layers = slices.DeleteFunc(r.Layers, func(l explain.Layer) bool {
		return len(names) > 0 && !slices.Contains(names, l.Name)
	})
	for i := range r.Layers {
		if len(names) > 0 {
			r.Layers[i].Because = nil // its causes are not shown, its reasons are
		}
	}
	return nil
}

// Hits adds to each hit what was compared.
func (p *Past) Hits(r *explain.Report) {
	for i := range r.Layers {
		l := &r.Layers[i]
		if l.Outcome != explain.Hit {
			continue
		}
		record, err := p.cache.Get(buildcache.Rootfs, buildcache.Key(l.Key))
		if err != nil {
			continue // removed since
		}
		l.Baseline = baselineOf(record, explain.BaselineHere)
		for _, in := range record.Inputs {
			l.Inputs = append(l.Inputs, explain.Input{Code: string(in.Code), Name: in.Name, Value: in.Value, Redacted: in.Redacted})
		}
	}
}

// Whole spells out the reasons of which the journal keeps only a part, where the
// records and trees are still there.
func (p *Past) Whole(r *explain.Report) {
	for i := range r.Layers {
		l := &r.Layers[i]
		if l.Baseline == nil || !slices.ContainsFunc(l.Reasons, func(r explain.Reason) bool { return r.More > 0 }) {
			continue
		}
		was, err1 := p.cache.Get(buildcache.Rootfs, buildcache.Key(l.Baseline.Key))
		is, err2 := p.cache.Get(buildcache.Rootfs, buildcache.Key(l.Key))
		if err1 != nil || err2 != nil {
			continue
		}
		d := differ{old: p.sources.Entries, new: p.sources.Entries}
		for _, difference := range buildcache.Diff(was.Inputs, is.Inputs) {
			for j, reason := range l.Reasons {
				if reason.Name != difference.Name || reason.More == 0 {
					continue
				}
				if whole := d.reason(difference, was.Origin, is.Origin); len(whole.Changes)+len(whole.Diff) > 0 {
					whole.Called, whole.By = reason.Called, reason.By
					l.Reasons[j] = whole
				}
			}
		}
	}
}

// A side is one of the two that are compared: a build with its records and trees.
type side struct {
	title  string
	report *explain.Report // nil for a single record
	record func(layer string) *buildcache.Record
	tree   func(digest.Digest) ([]imports.Entry, error)
}

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

// Against compares a build with something else: the number of another build, the
// beginning of a record's key, a bundle, or the last build of another state folder.
func (p *Past) Against(ctx context.Context, r *explain.Report, what string) (*explain.Report, error) {
	info, err := os.Stat(what)
	number, notNumber := strconv.Atoi(what)
	var other *side
	switch {
	case err == nil && info.IsDir():
		past, err := OpenPast(ctx, what)
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

// AgainstBuild compares a build with another one of the same state folder.
func (p *Past) AgainstBuild(r *explain.Report, number int) (*explain.Report, error) {
	before, err := p.Build(number)
	if err != nil {
		return nil, err
	}
	return compareSides(p.side("", r), p.side(fmt.Sprintf("build %d", number), before)), nil
}

// lastLike returns the last build that has a layer of the same name.
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

// minKey is how many digits of a key name a record.
const minKey = 6

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

// compareSides compares each layer of a build with that of another.
func compareSides(here, there *side) *explain.Report {
	out := *here.report
	out.Against = there.title
	out.Layers = nil
	d := differ{old: portable(there.tree), new: portable(here.tree)}
	for _, l := range here.report.Layers {
		told := explain.Layer{Name: l.Name, Needs: l.Needs, Key: l.Key, Result: l.Result, Seconds: l.Seconds, Outcome: explain.Absent}
		told.There = outcomeIn(there.report, l.Name)
		was, is := there.record(l.Name), here.record(l.Name)
		switch {
		case is == nil:
			told.Outcome = explain.NotReached
		case was == nil:
		default:
			compareRecords(&told, d, was, is)
		}
		out.Layers = append(out.Layers, told)
	}
	return &out
}

func compareRecords(told *explain.Layer, d differ, was, is *buildcache.Record) {
	told.Baseline = baselineOf(was, explain.BaselineAgainst)
	told.Outcome = explain.Same
	if was.Key == is.Key {
		return
	}
	told.Outcome = explain.Differs
	diff := buildcache.Diff(was.Inputs, is.Inputs)
	for _, r := range diff {
		told.Reasons = append(told.Reasons, d.reason(r, was.Origin, is.Origin))
	}
	told.Hint = explain.HintFor(told.Reasons, false)
}

// outcomeIn says what became of a layer in another build, and why.
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
			words = append(words, reason.Code)
		}
		return strings.Join(words, " ")
	}
	return ""
}

// portable makes entries of this machine comparable with those of a bundle.
func portable(tree func(digest.Digest) ([]imports.Entry, error)) func(digest.Digest) ([]imports.Entry, error) {
	return func(d digest.Digest) ([]imports.Entry, error) {
		entries, err := tree(d)
		for i := range entries {
			for j, x := range entries[i].Xattrs {
				if !strings.HasPrefix(x.Value, string(digest.SHA256)+":") {
					entries[i].Xattrs[j].Value = string(digest.FromString(x.Value))
				}
			}
		}
		return entries, err
	}
}

// Export makes a bundle of a build, to be compared elsewhere.
func (p *Past) Export(r *explain.Report) *explain.Bundle {
	b := &explain.Bundle{Format: explain.BundleFormat, Version: explain.Version, Report: *r, Trees: map[string][]explain.Entry{}}
	mine := p.side("", r)
	tree := portable(mine.tree)
	for _, l := range r.Layers {
		record := mine.record(l.Name)
		if record == nil {
			continue
		}
		step := explain.Step{
			Layer: l.Name, Key: string(record.Key), Result: l.Result, Built: record.Created.Format(time.RFC3339),
			Base: record.Origin.Base, Manifest: record.Origin.Manifest,
		}
		for _, in := range record.Inputs {
			step.Inputs = append(step.Inputs, explain.Input{Code: string(in.Code), Name: in.Name, Value: in.Value, Redacted: in.Redacted})
			d, _ := treeOf(in.Value)
			if !isTree(in.Code) || b.Trees[string(d)] != nil {
				continue
			}
			if entries, err := tree(d); err == nil {
				b.Trees[string(d)] = exported(entries)
			}
		}
		b.Steps = append(b.Steps, step)
	}
	return b
}

func isTree(code buildcache.Code) bool {
	return code == buildcache.Import || code == buildcache.Overlay || code == buildcache.Bind
}

func exported(entries []imports.Entry) []explain.Entry {
	out := make([]explain.Entry, len(entries))
	for i, e := range entries {
		out[i] = explain.Entry{
			Path: []byte(e.Path), Type: e.Type.String(), Mode: e.Mode, Size: e.Size,
			Link: []byte(e.Link), Major: e.Major, Minor: e.Minor,
		}
		if e.Type == imports.File {
			out[i].Sum = e.Sum[:]
		}
		for _, x := range e.Xattrs {
			out[i].Xattrs = append(out[i].Xattrs, explain.Attr{Name: []byte(x.Name), Value: []byte(x.Value)})
		}
	}
	return out
}

// bundleSide reads a bundle.
func bundleSide(path string) (*side, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := explain.ReadBundle(f)
	if err != nil {
		return nil, err
	}
	return sideOf(b, path)
}

func sideOf(b *explain.Bundle, path string) (s *side, err error) {
	records := map[string]*buildcache.Record{}
	for _, step := range b.Steps {
		if records[step.Layer], err = stepRecord(b, step); err != nil {
			return nil, err
		}
	}
	return &side{
		title:  fmt.Sprintf("build %d of %s in %s", b.Report.Build.Number, b.Report.Build.Stackerfile, path),
		report: &b.Report,
		record: func(layer string) *buildcache.Record { return records[layer] },
		tree: func(d digest.Digest) ([]imports.Entry, error) {
			entries, ok := b.Trees[string(d)]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return entriesOf(entries)
		},
	}, nil
}

func stepRecord(b *explain.Bundle, step explain.Step) (*buildcache.Record, error) {
	built, err := time.Parse(time.RFC3339, step.Built)
	if err != nil {
		return nil, fmt.Errorf("it is damaged: a layer was built at %q", step.Built)
	}
	r := &buildcache.Record{
		Kind: buildcache.Rootfs, Key: buildcache.Key(step.Key), Created: built,
		Origin: buildcache.Origin{Layer: step.Layer, Stackerfile: b.Report.Build.Stackerfile, Base: step.Base, Manifest: step.Manifest},
	}
	for _, in := range step.Inputs {
		r.Inputs = append(r.Inputs, buildcache.Input{Code: buildcache.Code(in.Code), Name: in.Name, Value: in.Value, Redacted: in.Redacted})
	}
	return r, nil
}

func entriesOf(entries []explain.Entry) ([]imports.Entry, error) {
	out := make([]imports.Entry, len(entries))
	for i, e := range entries {
		kind, ok := imports.ParseType(e.Type)
		if !ok {
			return nil, fmt.Errorf("a bundle has a path of type %q", e.Type)
		}
		out[i] = imports.Entry{
			Path: string(e.Path), Type: kind, Mode: e.Mode, Size: e.Size,
			Link: string(e.Link), Major: e.Major, Minor: e.Minor,
		}
		copy(out[i].Sum[:], e.Sum)
		for _, x := range e.Xattrs {
			out[i].Xattrs = append(out[i].Xattrs, imports.Xattr{Name: string(x.Name), Value: string(x.Value)})
		}
	}
	return out, nil
}

// An IgnoredBy tells which rule decides whether a path is imported.
type IgnoredBy struct {
	Layer  string
	Import layers.Import
	Below  string        // the path, below the import
	Rule   *imports.Rule // nil: no rule matches it, and it is imported
}

// Ignored says for each import that a path lies in which rule decides about it.
func Ignored(stackerfile string, load layers.Options, path string) ([]IgnoredBy, error) {
	graph, err := layers.Load(stackerfile, load)
	if err != nil {
		return nil, err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var all []IgnoredBy
	for _, l := range graph.Layers {
		for _, imp := range l.Imports {
			below, err := filepath.Rel(imp.Source.Path, path)
			if imp.Source.Scheme != layers.SchemeLocal || err != nil || below == ".." || strings.HasPrefix(below, "../") {
				continue
			}
			at := importedSource(imp)
			at.Path, at.Content = imp.Source.Path, imp.Source.Content
			found := IgnoredBy{Layer: l.Name, Import: imp, Below: below}
			if below != "." {
				if found.Rule, err = imports.Ignored(at, below); err != nil {
					return nil, err
				}
			}
			all = append(all, found)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s lies in no import of %s", path, stackerfile)
	}
	return all, nil
}
