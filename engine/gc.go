package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/progress"
)

// How often a build looks whether there is something to remove: to look takes as
// long as `layerbuild du`. When its disk is nearly full it looks sooner.
const (
	gcEvery     = time.Hour
	gcEveryFull = time.Minute
)

// DefaultPolicy is what is removed after builds, when the config file says nothing.
func DefaultPolicy() []Rule {
	return []Rule{
		{All: true, Filters: []Filter{{key: "type", op: "==", value: KindFailed}}, KeepDuration: 7 * 24 * time.Hour},
		{All: true, Filters: []Filter{{key: "type", op: "==", value: KindCorrupt}}, KeepDuration: 7 * 24 * time.Hour},
		{All: true, Filters: []Filter{{key: "type", op: "==", value: KindPartial}}, KeepDuration: 7 * 24 * time.Hour},
		{MaxUsed: Size{Percent: 60}, MinFree: Size{Percent: 10}, Reserved: Size{Bytes: 10e9}},
		{All: true, MaxUsed: Size{Percent: 60}, MinFree: Size{Percent: 10}, Reserved: Size{Bytes: 10e9}},
	}
}

// gcMark is the file whose mtime says when the policy was last applied, and which
// is locked by the process that applies it.
func gcMark(state string) string { return filepath.Join(state, "usage", "gc") }

// gcDue tells whether it is time to apply the policy. It costs two system calls.
func gcDue(state string, policy []Rule, now time.Time) bool {
	if len(policy) == 0 {
		return false
	}
	age := gcEvery
	if info, err := os.Stat(gcMark(state)); err == nil {
		age = now.Sub(info.ModTime())
	}
	if age < 0 || age >= gcEvery {
		return true
	}
	d, err := diskOf(state)
	if err != nil || age < gcEveryFull {
		return false
	}
	for _, rule := range policy {
		if free := rule.MinFree.of(d.size); free > 0 && d.free < free {
			return true
		}
	}
	return false
}

// gc applies the policy if it is due and no other process is at it. The build has
// gone well without it: what goes wrong is a warning. A user's build that cannot
// remove leaves it to the next one, see mayCollect.
func gc(ctx context.Context, o Options) {
	if !namespace.Ready() || !gcDue(o.StateDir, o.Policy, time.Now()) {
		return
	}
	r, err := openExisting(ctx, o.StateDir)
	if r == nil || err != nil {
		return
	}
	defer r.close()
	var freed int64
	var n int
	err = r.collect(ctx, o.Policy, func(removed Removed) {
		n++
		freed += removed.Item.Bytes()
		o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Debug, Text: "gc: removed " + removed.Item.Type + " " + removed.Item.ID + ": " + removed.Rule})
	})
	if n > 0 {
		o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Notice, Text: "gc: removed " + count(n, "item") + " of the state folder, " + bytesText(freed)})
	}
	if err != nil && ctx.Err() == nil {
		o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Warning, Text: "gc: " + err.Error()})
	}
}

// mayCollect has a build go on where it may remove snapshots, when that is due:
// once an hour even one that finds all in the cache.
func mayCollect(o Options) {
	if !o.Plan && !namespace.Ready() && gcDue(o.StateDir, o.Policy, time.Now()) {
		_ = EnterState(o.StateDir) // without it nothing is removed
	}
}

// collect applies the policy, unless another process is at it.
func (r *rooms) collect(ctx context.Context, policy []Rule, removed func(Removed)) error {
	if err := os.MkdirAll(filepath.Dir(gcMark(r.state)), 0o700); err != nil {
		return err
	}
	mark, err := locks.TryOpen(gcMark(r.state), os.O_CREATE|os.O_RDWR, locks.Exclusive)
	if errors.Is(err, locks.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer mark.Close()
	now := time.Now()
	if err := os.Chtimes(mark.Name(), now, now); err != nil {
		return err
	}
	return r.prune(ctx, PruneOptions{Rules: policy, By: "layerbuild gc", Removed: removed})
}

// GC applies the policy now, due or not.
func GC(ctx context.Context, o PruneOptions) error {
	r, err := openExisting(ctx, o.StateDir)
	if r == nil || err != nil {
		return err
	}
	defer r.close()
	return r.collect(ctx, o.Rules, o.Removed)
}
