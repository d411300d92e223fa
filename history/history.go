// Package history reads what a state folder remembers of builds: their journals and logs. It
// compares the inputs of builds, also with those of another state folder or, by a bundle, of
// another machine. How that is told is the work of package explain.
package history

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
	"strings"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/redact"
)

// A Past is the builds that a state folder remembers. It reads only.
type Past struct {
	dir     string
	cache   *buildcache.Cache
	sources *imports.Store
}

// Open opens the state folder stateDir, which must exist. While the Past is open the folder is in
// use and is not destroyed.
func Open(ctx context.Context, stateDir string) (*Past, error) {
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

// Builds returns the reports of all builds that are remembered, the last one first. It leaves out
// those that have not ended.
func (p *Past) Builds() ([]*explain.Report, error) {
	numbers, err := p.cache.Builds()
	if err != nil {
		return nil, err
	}
	slices.Reverse(numbers)
	all := []*explain.Report{}
	for _, n := range numbers {
		if r, err := p.Build(n); err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// Build returns the report of one build.
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

// Last returns the report of the last build of a stackerfile or, if none is remembered, of the
// last build of one in or below its folder: what was built elsewhere is another project's.
func (p *Past) Last(stackerfile string) (*explain.Report, error) {
	place, err := Place(stackerfile)
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
		if r.Build.Stackerfile == place {
			return r, nil
		}
		if strings.HasPrefix(r.Build.Stackerfile, filepath.Dir(place)+"/") {
			last = cmp.Or(last, r)
		}
	}
	if last == nil {
		return nil, fmt.Errorf("no build of %s is remembered in %s: `layerbuild history` lists what is", stackerfile, p.dir)
	}
	return last, nil
}

// Building returns the last builds of a stackerfile that built these layers, the newest first: each
// with the layers that it was the last to build, failed to build, or generated labels of. A layer
// that no remembered build has built is in the last build, which found it.
func (p *Past) Building(stackerfile string, layers ...string) ([]*explain.Report, error) {
	last, err := p.Last(stackerfile)
	if err != nil {
		return nil, err
	}
	if err := Only(last, layers); err != nil {
		return nil, err
	}
	builds, err := p.Builds()
	if err != nil {
		return nil, err
	}
	var reports []*explain.Report
	take := func(r *explain.Report, wanted func(explain.Layer) bool) {
		var kept []explain.Layer
		for _, l := range r.Layers {
			if at := slices.Index(layers, l.Name); at >= 0 && wanted(l) {
				layers = slices.Delete(slices.Clone(layers), at, at+1)
				l.Because = nil // the layers that caused it are not shown, its reasons are
				kept = append(kept, l)
			}
		}
		if len(kept) > 0 {
			r.Layers = kept
			reports = append(reports, r)
		}
	}
	for _, r := range builds {
		if r.Build.Stackerfile == last.Build.Stackerfile && r.Build.Command == explain.CommandBuild {
			take(r, func(l explain.Layer) bool {
				return l.Outcome == explain.Built || l.Outcome == explain.Broken || len(l.Labels) > 0
			})
		}
	}
	take(last, func(explain.Layer) bool { return true })
	return reports, nil
}

// Place returns what journals and records call a stackerfile: its absolute path, or its URL without
// passwords.
func Place(stackerfile string) (string, error) {
	if layers.IsURL(stackerfile) {
		return redact.URL(stackerfile), nil
	}
	return filepath.Abs(stackerfile)
}

// Only removes from a report all layers but those named. Without names it keeps them all.
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
			r.Layers[i].Because = nil // the layers that caused it are not shown, its reasons are
		}
	}
	return nil
}

// Hits adds the inputs that were compared to each layer that was found in the cache.
func (p *Past) Hits(r *explain.Report) {
	for i := range r.Layers {
		l := &r.Layers[i]
		if l.Outcome != explain.Hit {
			continue
		}
		record, err := p.cache.Get(buildcache.Rootfs, buildcache.Key(l.Key))
		if err != nil {
			continue // pruned since
		}
		l.Baseline = explain.BaselineOf(record, explain.BaselineHere)
		for _, in := range record.Inputs {
			l.Inputs = append(l.Inputs, explain.Input{Code: in.Code, Name: in.Name, Value: in.Value, Redacted: in.Redacted})
		}
	}
}

// Whole completes the reasons that the journal holds cut short, as far as the records and trees
// that they are about are still there.
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
		whole := explain.Compare(p.sideOf(was), p.sideOf(is), 0)
		for j, reason := range l.Reasons {
			at := slices.IndexFunc(whole, func(w explain.Reason) bool { return w.Code == reason.Code && w.Name == reason.Name })
			if at >= 0 && reason.More > 0 && len(whole[at].Changes)+len(whole[at].Diff) > 0 {
				l.Reasons[j].Changes, l.Reasons[j].Diff, l.Reasons[j].More = whole[at].Changes, whole[at].Diff, 0
			}
		}
	}
}

// sideOf returns a record and its trees as one side of a comparison.
func (p *Past) sideOf(r *buildcache.Record) explain.Side {
	return explain.Side{Inputs: r.Inputs, Origin: r.Origin, Tree: p.sources.Entries}
}
