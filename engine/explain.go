package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/redact"
)

// A goneError says that a record is there, but that a snapshot of its result is
// not, and has no blob to be made from.
type goneError struct {
	chain   *chain
	damaged bool
}

func (e *goneError) Error() string { return "snapshot " + string(e.chain.id) + " is gone" }

func (e *goneError) Unwrap() error { return buildcache.ErrNotFound }

// keptChanges is how many lines or changes of one reason a journal keeps.
const keptChanges = 50

// tellMiss finds out why a step is not found in the cache, all causes at once,
// and reports it.
func (b *Builder) tellMiss(ctx context.Context, s *rootfsStep, told *explain.Layer, miss error) error {
	found := explain.Miss{NoCache: named(b.NoCache, s.l.Name), Untracked: s.runUntracked()}
	key := s.inputs.Key(buildcache.Rootfs)
	latest, err := b.Cache.Latest(s.l.File.Path, s.l.Name)
	if err != nil {
		latest = &buildcache.Latest{}
	}
	found.First = !latest.Built()
	found.Failed = latest.Failed && latest.FailedKey == key
	if miss != nil && len(s.runUntracked()) == 0 {
		found.Gone = b.gone(miss, key, latest)
	}
	last, built := latest.Keys[buildcache.Rootfs]
	if miss != nil && last != key {
		if err := b.tellDifferences(ctx, s, told, latest, &found); err != nil {
			return err
		}
		found.Former = built && last == "" && told.Baseline == nil
	}
	told.Reasons = found.Reasons()
	if len(told.Reasons) == 0 { // there is nothing left to compare with
		told.Reasons = []explain.Reason{b.missing("last build's record", string(buildcache.Rootfs), string(last))}
	}
	told.Because = because(told.Reasons)
	b.sayMiss(s.l, told)
	return nil
}

// sayMiss reports a layer's reasons, with their details after them.
func (b *Builder) sayMiss(l *layers.Layer, told *explain.Layer) {
	for i := range told.Reasons {
		b.report(progress.Event{Kind: progress.Miss, Layer: l.Name, Text: told.Reasons[i].Head()})
	}
	for _, text := range told.More(explain.Options{All: b.Debug, Now: time.Now()}) {
		b.report(progress.Event{Kind: progress.Notice, Layer: l.Name, Text: text})
	}
}

// tellPull says in a plan that a base must be pulled, beyond which nothing is known.
func (b *Builder) tellPull(l *layers.Layer, manifest digest.Digest) {
	told := &b.layers[l].told
	is := explain.Side{
		Inputs: buildcache.Inputs{{Code: buildcache.BaseChange, Name: "base"}},
		Origin: buildcache.Origin{Base: redact.URL(l.From.URL), Manifest: string(manifest)},
	}
	var was explain.Side
	live := false
	if latest, err := b.Cache.Latest(l.File.Path, l.Name); err == nil {
		var before *buildcache.Record
		if before, live = b.lastRecord(buildcache.Rootfs, latest); before != nil {
			told.Baseline = explain.BaselineOf(before, explain.BaselineHere)
			was = explain.Side{Inputs: buildcache.Inputs{{Code: buildcache.BaseChange, Name: "base", Value: "another"}}, Origin: before.Origin}
		}
	}
	told.Reasons = explain.Compare(was, is, 0)
	if r := told.Reasons[0]; r.Old == r.New {
		told.Reasons = []explain.Reason{{Code: buildcache.Missing, Name: "base"}}
	}
	told.Hint = hintFor(told.Reasons, live)
	b.sayMiss(l, told)
}

// gone returns what is gone of the result of a step's own inputs, or nil if there
// never was one, as far as anybody knows.
func (b *Builder) gone(miss error, key buildcache.Key, latest *buildcache.Latest) *explain.Reason {
	var gone *goneError
	var reason explain.Reason
	switch {
	case errors.Is(miss, buildcache.ErrCorrupt):
		reason = explain.Reason{Code: buildcache.Corrupt, Name: "record"}
	case errors.Is(miss, buildcache.ErrUntrusted):
		reason = explain.Reason{Code: buildcache.Untrusted, Name: "record"}
	case errors.As(miss, &gone):
		reason = b.missing("snapshot", buildcache.BurySnapshot, gone.chain.id.Encoded())
		if reason.Code == buildcache.Missing && (gone.damaged || b.Snapshots.IsAside(gone.chain.id)) {
			reason.Code = buildcache.Corrupt
		}
	default:
		reason = b.missing("record", string(buildcache.Rootfs), string(key))
		if reason.Code == buildcache.Missing && latest.Keys[buildcache.Rootfs] != key {
			return nil
		}
	}
	return &reason
}

// missing says that something is gone and, if it was removed to save space, when,
// by whom and by which rule.
func (b *Builder) missing(what, kind, id string) explain.Reason {
	stone, err := b.Cache.Tombstone(kind, id)
	if err != nil {
		return explain.Reason{Code: buildcache.Missing, Name: what}
	}
	note := fmt.Sprintf("on %s by %s (%s)", stone.When.Local().Format(time.DateTime), stone.By, stone.Rule)
	return explain.Reason{Code: buildcache.Evicted, Name: what, Note: note}
}

// tellDifferences compares the step with the best record that there is.
func (b *Builder) tellDifferences(
	ctx context.Context, s *rootfsStep, told *explain.Layer, latest *buildcache.Latest, found *explain.Miss,
) error {
	before, kind, live := b.baseline(ctx, s, latest)
	if before == nil {
		return nil
	}
	told.Baseline = explain.BaselineOf(before, kind)
	if kind == explain.BaselineHere {
		told.Seconds = before.Cost.Seconds() // until it is known
	}
	inputs, err := b.Cache.Redacted(s.inputs)
	if err != nil {
		return err
	}
	limit := keptChanges
	if b.Debug {
		limit = 0
	}
	was := explain.Side{Inputs: before.Inputs, Origin: before.Origin, Tree: b.Sources.Entries}
	is := explain.Side{Inputs: inputs, Origin: b.origin(s), Tree: b.Sources.Entries, Said: b.said(s)}
	found.Changed = explain.Compare(was, is, limit)
	told.Hint = hintFor(found.Reasons(), live)
	return nil
}

// hintFor returns a hint about reasons if the record that they compare with is still
// there: otherwise nothing would have made a hit.
func hintFor(reasons []explain.Reason, live bool) string {
	if !live {
		return ""
	}
	return explain.HintFor(reasons)
}

// said returns what the stackerfile says of a step's inputs.
func (b *Builder) said(s *rootfsStep) map[string]explain.Said {
	said := map[string]explain.Said{}
	for name, about := range s.said {
		if by := s.by[name]; by != nil && !b.layers[by].hit() {
			about.By = by.Name
		}
		said[name] = about
	}
	return said
}

// baseline returns what a step is best compared with, or nil: the last good build
// of the layer, else that of the same layer in another checkout of the project, else
// what has most in common of the project's last builds. live reports whether it is
// still in the cache.
func (b *Builder) baseline(ctx context.Context, s *rootfsStep, latest *buildcache.Latest) (r *buildcache.Record, kind string, live bool) {
	if r, live := b.lastRecord(buildcache.Rootfs, latest); r != nil {
		return r, explain.BaselineHere, live
	}
	project := b.projects.of(ctx, s.l.File)
	var others []*buildcache.Record
	for _, other := range b.projects.lastBuilds(project.Name, b.lastBuilds) {
		if other.record.Origin.Layer == s.l.Name && other.path == project.Path {
			return other.record, explain.BaselineCheckout, other.live
		}
		if other.live {
			others = append(others, other.record)
		}
	}
	return explain.Nearest(others, s.inputs), explain.BaselineNearest, true
}

// lastBuilds returns the last good builds of a project's layers, the newest first.
func (b *Builder) lastBuilds(project string) (all []lastBuild) {
	latest, err := b.Cache.LatestIn(project)
	if err != nil {
		return nil // explanations do without
	}
	for _, l := range latest {
		if r, live := b.lastRecord(buildcache.Rootfs, &l); r != nil {
			r.Origin.Layer, r.Origin.Stackerfile = l.Layer, l.Stackerfile
			all = append(all, lastBuild{r, l.Path, live})
		}
	}
	return all
}

// lastRecord returns the record of a layer's last good build, or nil, and whether
// it is still in the cache.
func (b *Builder) lastRecord(kind buildcache.Kind, latest *buildcache.Latest) (r *buildcache.Record, live bool) {
	key := latest.Keys[kind]
	if r, err := b.Cache.Get(kind, key); err == nil {
		return r, true
	}
	stone, err := b.Cache.Tombstone(string(kind), string(key))
	if err != nil || stone.Record == nil || stone.Record.Version != buildcache.FormatVersion {
		return nil, false
	}
	return stone.Record, false
}

// because returns the layers whose rebuild is all that made a layer miss.
func because(reasons []explain.Reason) (names []string) {
	for _, r := range reasons {
		if r.By == "" {
			return nil
		}
		if !slices.Contains(names, r.By) {
			names = append(names, r.By)
		}
	}
	return names
}

// tellLabels tells why generate_labels runs again, or would.
func (b *Builder) tellLabels(s *rootfsStep, in buildcache.Inputs, told *explain.Layer, miss error) error {
	if told.Outcome == explain.Built {
		return nil // the layer's own reasons say it
	}
	var err error
	if told.Labels, err = b.labelReasons(s, in, miss); err != nil {
		return err
	}
	for _, reason := range told.Labels {
		switch {
		case b.Plan || b.FailOnMiss:
			b.notice(s.l, progress.Miss, "its labels are not known: %s", reason.Head())
		case reason.Code != buildcache.First:
			b.notice(s.l, progress.Notice, "labels are generated again because %s", reason.Head())
		}
	}
	return nil
}

// labelReasons returns why labels are not remembered, or are generated all the same.
func (b *Builder) labelReasons(s *rootfsStep, in buildcache.Inputs, miss error) ([]explain.Reason, error) {
	switch {
	case miss == nil:
		return explain.Miss{NoCache: true}.Reasons(), nil
	case errors.Is(miss, buildcache.ErrCorrupt):
		return []explain.Reason{{Code: buildcache.Corrupt, Name: "record"}}, nil
	}
	latest, err := b.Cache.Latest(s.l.File.Path, s.l.Name)
	if err != nil || latest.Keys[buildcache.Labels] == "" {
		return explain.Miss{First: true}.Reasons(), nil //nolint:nilerr // there was none
	}
	key := latest.Keys[buildcache.Labels]
	before, _ := b.lastRecord(buildcache.Labels, latest)
	if before == nil || key == in.Key(buildcache.Labels) {
		return []explain.Reason{b.missing("last labels' record", string(buildcache.Labels), string(key))}, nil
	}
	inputs, err := b.Cache.Redacted(in)
	was := explain.Side{Inputs: before.Inputs, Origin: before.Origin}
	return explain.Compare(was, explain.Side{Inputs: inputs, Origin: b.origin(s)}, keptChanges), err
}

// tellPack tells that a layer would have to be packed, where that is not done.
func (b *Builder) tellPack(l *layers.Layer, as string) {
	if b.Plan || b.FailOnMiss {
		told := &b.layers[l].told
		is := explain.Side{Inputs: buildcache.Inputs{{Code: buildcache.Definition, Name: "packing", Value: as}}}
		told.Reasons = append(told.Reasons, explain.Compare(explain.Side{}, is, 0)...)
		b.notice(l, progress.Miss, "it is not packed as %s", as)
	}
}

// tellResult notes what came of a layer, and whether that is what it was.
func (b *Builder) tellResult(s *rootfsStep, told *explain.Layer, c *chain) {
	told.Result = string(c.ID())
	latest, err := b.Cache.Latest(s.l.File.Path, s.l.Name)
	if told.Outcome != explain.Built || err != nil || latest.Result == "" {
		return
	}
	told.SameResult = latest.Result == told.Result
	sameInputs := string(latest.Keys[buildcache.Rootfs]) == told.Key
	if sameInputs && !told.SameResult && len(s.runUntracked()) == 0 {
		told.Hint = "the same inputs gave another result: it is not reproducible, " + b.command(s.l, "verify", s.l.Name) + " says in what"
		b.notice(s.l, progress.Notice, "hint: %s", told.Hint)
	}
}

// origin tells people of which layer a record is, and on what that stands.
func (b *Builder) origin(s *rootfsStep) buildcache.Origin {
	o := origin(s.l)
	switch from := s.l.From; from.Type {
	case layers.BaseBuilt:
		o.Base = "layer " + from.Tag
	case layers.BaseScratch:
		o.Base = layers.BaseScratch
	case layers.BaseOCI:
		o.Base = from.Image()
	default:
		o.Base = redact.URL(from.URL)
	}
	if s.l.From.Type != layers.BaseBuilt && s.base.image != nil {
		o.Manifest = string(s.base.image.Manifest)
	}
	return o
}

// reportOf returns what is told of a build or a plan that has ended, however it has.
func (b *Builder) reportOf(ctx context.Context, start time.Time, failure error) *explain.Report {
	report := &explain.Report{
		Version: explain.Version,
		Build: explain.Build{
			Command:     explain.CommandBuild,
			Stackerfile: b.graph.Files[len(b.graph.Files)-1].Path,
			Started:     start.UTC(),
			Seconds:     time.Since(start).Seconds(),
			Result:      explain.OK,
		},
	}
	var miss *MissError
	switch {
	case len(b.Verify) > 0:
		report.Build.Command = explain.CommandVerify
	case b.Plan:
		report.Build.Command = explain.CommandPlan
	}
	switch {
	case b.Plan && errors.As(failure, &miss): // that is what a plan tells
	case ctx.Err() != nil:
		report.Build.Result = explain.Interrupted
	case failure != nil:
		report.Build.Result = explain.Failed
		report.Build.Error, _, _ = strings.Cut(failure.Error(), "\n") // what a step wrote is in the log
	}
	report.Layers = b.told()
	report.Work = worked(b.timeline.Spans(), start)
	report.Count()
	return report
}

// tell keeps the journal of a build.
func (b *Builder) tell(report *explain.Report) error {
	number, err := b.numbered()
	if err != nil {
		return err
	}
	report.Build.Number = number
	raw, err := report.Encode()
	if err != nil {
		return err
	}
	return b.Cache.PutJournal(number, raw)
}

// worked returns the work of a build that began at start and ends now.
func worked(spans []progress.Span, start time.Time) (all []explain.Work) {
	for _, s := range spans {
		if s.End.IsZero() {
			s.End = time.Now()
		}
		all = append(all, explain.Work{Layer: s.Layer, What: s.Text, Start: s.Start.Sub(start).Seconds(), End: s.End.Sub(start).Seconds(), Track: s.Track})
	}
	return all
}

// told is what is told of the layers, in the order of the graph.
func (b *Builder) told() []explain.Layer {
	all := []explain.Layer{}
	for _, l := range b.graph.Layers {
		told := b.layers[l].told
		told.Name = l.Name
		told.Outcome = cmp.Or(told.Outcome, explain.NotReached)
		for _, need := range b.graph.Needs(l) {
			told.Needs = append(told.Needs, need.Name)
		}
		all = append(all, told)
	}
	return all
}
