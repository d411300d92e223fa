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
	"github.com/layerbuild/layerbuild/history"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
)

// A goneError says that a record is there, but that a snapshot of its result is
// not, and has no blob to be made from.
type goneError struct{ chain *chain }

func (e *goneError) Error() string { return "snapshot " + string(e.chain.id) + " is gone" }

func (e *goneError) Unwrap() error { return buildcache.ErrNotFound }

// keptChanges is how many lines or changes of one reason a journal keeps.
const keptChanges = 50

// tellMiss finds out why a step is not found in the cache, all causes at once,
// and reports it.
func (b *Builder) tellMiss(s *rootfsStep, told *explain.Layer, miss error) error {
	latest, err := b.Cache.Latest(s.l.File.Path, s.l.Name)
	if err != nil {
		latest = nil
	}
	told.Reasons = b.keyless(s, latest, miss)
	if miss != nil && !slices.ContainsFunc(told.Reasons, func(r explain.Reason) bool { return restored(r.Code) }) {
		if err := b.tellDifferences(s, told, latest); err != nil {
			return err
		}
	}
	if len(told.Reasons) == 0 { // there is nothing left to compare with
		told.Reasons = []explain.Reason{b.missing("last build's record", string(buildcache.Rootfs), string(latest.Keys[buildcache.Rootfs]))}
	}
	told.Because = because(told.Reasons)
	told.Hint = explain.HintFor(told.Reasons, s.normalized())
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
	reason := explain.Reason{Code: explain.Base, Name: "base", New: imports.Redact(l.From.URL) + " " + string(manifest), Note: explain.Presence(false, true)}
	if latest, err := b.Cache.Latest(l.File.Path, l.Name); err == nil {
		if before, err := b.Cache.Get(buildcache.Rootfs, latest.Keys[buildcache.Rootfs]); err == nil {
			told.Baseline = history.BaselineOf(before, explain.BaselineHere)
			reason.Old, reason.Note = history.BaseText(before.Origin, ""), ""
		}
	}
	if reason.Old == reason.New {
		reason = explain.Reason{Code: explain.Missing, Name: "base"}
	}
	told.Reasons = []explain.Reason{reason}
	told.Hint = explain.HintFor(told.Reasons, true)
	b.sayMiss(l, told)
}

// restored tells whether a reason is that a result of the very same inputs is
// gone: no input explains that.
func restored(code string) bool {
	return code == explain.Evicted || code == explain.Missing || code == explain.Corrupt
}

// keyless returns the reasons that no input has.
func (b *Builder) keyless(s *rootfsStep, latest *buildcache.Latest, miss error) (reasons []explain.Reason) {
	if named(b.NoCache, s.l) {
		reasons = append(reasons, explain.Reason{Code: explain.NoCache})
	}
	for _, path := range s.untracked {
		reasons = append(reasons, explain.Reason{Code: explain.Untracked, Name: "bind " + path})
	}
	if latest != nil && latest.Failed {
		reasons = append(reasons, explain.Reason{Code: explain.LastFail})
	}
	key := s.inputs.Key(buildcache.Rootfs)
	var gone *goneError
	switch {
	case miss == nil || len(s.untracked) > 0:
	case errors.Is(miss, buildcache.ErrCorrupt):
		reasons = append(reasons, explain.Reason{Code: explain.Corrupt, Name: "record"})
	case errors.As(miss, &gone):
		reasons = append(reasons, b.missing("snapshot", buildcache.BurySnapshot, gone.chain.id.Encoded()))
	default:
		record := b.missing("record", string(buildcache.Rootfs), string(key))
		if record.Code == explain.Evicted || latest != nil && latest.Keys[buildcache.Rootfs] == key {
			reasons = append(reasons, record)
		}
	}
	return reasons
}

// missing says that something is gone and, if it was removed to save space, when,
// by whom and by which rule.
func (b *Builder) missing(what, kind, id string) explain.Reason {
	stone, err := b.Cache.Tombstone(kind, id)
	if err != nil {
		return explain.Reason{Code: explain.Missing, Name: what}
	}
	note := fmt.Sprintf("on %s by %s (%s)", stone.When.Local().Format(time.DateTime), stone.By, stone.Rule)
	return explain.Reason{Code: explain.Evicted, Name: what, Note: note}
}

// tellDifferences compares the step with the best record that there is.
func (b *Builder) tellDifferences(s *rootfsStep, told *explain.Layer, latest *buildcache.Latest) error {
	before, kind := b.baseline(s, latest)
	if latest == nil {
		told.Reasons = append(told.Reasons, explain.Reason{Code: explain.First})
	} else if key, known := latest.Keys[buildcache.Rootfs]; known && key == "" {
		told.Reasons = append(told.Reasons, explain.Reason{Code: explain.Format, Name: "record"})
	}
	if before == nil {
		return nil
	}
	told.Baseline = history.BaselineOf(before, kind)
	if kind == explain.BaselineHere {
		told.Seconds = before.Cost.Seconds() // until it is known
	}
	diff, err := b.Cache.Diff(before, s.inputs)
	if err != nil {
		return err
	}
	d := history.Differ{Old: b.Sources.Entries, New: b.Sources.Entries, Limit: keptChanges}
	if b.Debug {
		d.Limit = 0
	}
	now := b.origin(s)
	for _, r := range diff {
		reason := d.Reason(r, before.Origin, now)
		reason.Called = s.called[r.Name]
		if by := s.by[r.Name]; by != nil && !b.layers[by].hit {
			reason.By = by.Name
		}
		told.Reasons = append(told.Reasons, reason)
	}
	return nil
}

// baseline returns what a step is best compared with, or nil: the last good
// build of the layer, else that of the same layer in another checkout, else the
// record that has most in common. A layer of that name in another stackerfile is of
// another checkout if half of the inputs are equal.
func (b *Builder) baseline(s *rootfsStep, latest *buildcache.Latest) (*buildcache.Record, string) {
	if latest != nil {
		if r, err := b.Cache.Get(buildcache.Rootfs, latest.Keys[buildcache.Rootfs]); err == nil {
			return r, explain.BaselineHere
		}
	}
	elsewhere, err := b.Cache.LatestOf(s.l.Name)
	if err != nil {
		elsewhere = nil // explanations do without
	}
	var checkouts []*buildcache.Record
	for _, other := range elsewhere {
		if r, err := b.Cache.Get(buildcache.Rootfs, other.Keys[buildcache.Rootfs]); err == nil && other.Stackerfile != s.l.File.Path {
			r.Origin.Layer, r.Origin.Stackerfile = other.Layer, other.Stackerfile
			checkouts = append(checkouts, r)
		}
	}
	if r := buildcache.NewCandidates(checkouts).Nearest(s.inputs); r != nil {
		return r, explain.BaselineCheckout
	}
	return b.recent().Nearest(s.inputs), explain.BaselineNearest
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

// latestLabels returns the record of the labels that the layer had last, or nil.
func (b *Builder) latestLabels(l *layers.Layer) *buildcache.Record {
	if latest, err := b.Cache.Latest(l.File.Path, l.Name); err == nil {
		if r, err := b.Cache.Get(buildcache.Labels, latest.Keys[buildcache.Labels]); err == nil {
			return r
		}
	}
	return nil
}

// tellLabels says why labels are generated again.
func (b *Builder) tellLabels(s *rootfsStep, in buildcache.Inputs, told *explain.Layer) error {
	before := b.latestLabels(s.l)
	if before == nil || told.Outcome == explain.Built {
		return nil // nothing to compare with, or the layer's own reasons say it
	}
	diff, err := b.Cache.Diff(before, in)
	if err != nil {
		return err
	}
	d := history.Differ{Limit: keptChanges}
	for _, r := range diff {
		reason := d.Reason(r, before.Origin, b.origin(s))
		told.Labels = append(told.Labels, reason)
		b.notice(s.l, progress.Notice, "labels are generated again because %s", reason.Head())
	}
	return nil
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
	if sameInputs && !told.SameResult && len(s.untracked) == 0 {
		told.Hint = "the same inputs gave another result: it is not reproducible, `layerbuild verify " + s.l.Name + "` says in what"
		b.notice(s.l, progress.Notice, "hint: %s", told.Hint)
	}
}

// normalized tells whether modes count only as far as git keeps them.
func (s *rootfsStep) normalized() bool {
	return !slices.ContainsFunc(s.l.Imports, func(i layers.Import) bool { return i.Normalize == "" }) &&
		(len(s.l.OverlayDirs) == 0 || s.l.File.Normalize != "") && len(s.l.Binds) == 0
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
		o.Base = from.URL + ":" + from.Tag
	default:
		o.Base = imports.Redact(from.URL)
	}
	if s.l.From.Type != layers.BaseBuilt && s.base.image != nil {
		o.Manifest = string(s.base.image.Manifest)
	}
	return o
}

// tell keeps the journal of a build that has ended, however it has.
func (b *Builder) tell(ctx context.Context, start time.Time, failure error) error {
	report := &explain.Report{
		Version: explain.Version,
		Build: explain.Build{
			Command:     "build",
			Stackerfile: b.graph.Files[len(b.graph.Files)-1].Path,
			Started:     start.UTC(),
			Seconds:     time.Since(start).Seconds(),
			Result:      explain.OK,
		},
	}
	if len(b.Verify) > 0 {
		report.Build.Command = "verify"
	}
	switch {
	case ctx.Err() != nil:
		report.Build.Result = explain.Interrupted
	case failure != nil:
		report.Build.Result = explain.Failed
		report.Build.Error, _, _ = strings.Cut(failure.Error(), "\n") // what a step wrote is in the log
	}
	report.Layers = b.told()
	report.Count()
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

// told is what is told of the layers, in the order of the graph.
func (b *Builder) told() []explain.Layer {
	var all []explain.Layer
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
