package history

import (
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
)

// Export returns a bundle of a build, which another machine can compare its own builds with.
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
			step.Inputs = append(step.Inputs, explain.Input{Code: in.Code, Name: in.Name, Value: in.Value, Redacted: in.Redacted})
			d, ok := explain.TreeOf(in)
			if !ok || b.Trees[string(d)] != nil {
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

// exported returns the entries of a tree as bundles hold them, see entriesOf.
func exported(entries []imports.Entry) []explain.Entry {
	out := make([]explain.Entry, len(entries))
	for i, e := range entries {
		out[i] = explain.Entry{
			Path: []byte(e.Path), Type: e.Type.String(), Mode: e.Mode, Size: e.Size,
			Link: []byte(e.Link), Major: e.Major, Minor: e.Minor, Owner: (*explain.Owner)(e.Owner),
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

// bundleSide returns the build of the bundle at path.
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

// sideOf returns the build of a bundle. It fails if the bundle is damaged.
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

// stepRecord returns the record that a step of a bundle was exported from, without its result.
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
		r.Inputs = append(r.Inputs, buildcache.Input{Code: in.Code, Name: in.Name, Value: in.Value, Redacted: in.Redacted})
	}
	return r, nil
}

// entriesOf returns the entries that exported was given, but for digests of extended attributes.
func entriesOf(entries []explain.Entry) ([]imports.Entry, error) {
	out := make([]imports.Entry, len(entries))
	for i, e := range entries {
		kind, ok := imports.ParseType(e.Type)
		if !ok {
			return nil, fmt.Errorf("a bundle has a path of type %q", e.Type)
		}
		out[i] = imports.Entry{
			Path: string(e.Path), Type: kind, Mode: e.Mode, Size: e.Size,
			Link: string(e.Link), Major: e.Major, Minor: e.Minor, Owner: (*imports.Owner)(e.Owner),
		}
		copy(out[i].Sum[:], e.Sum)
		for _, x := range e.Xattrs {
			out[i].Xattrs = append(out[i].Xattrs, imports.Xattr{Name: string(x.Name), Value: string(x.Value)})
		}
	}
	return out, nil
}
