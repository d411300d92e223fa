package engine

import (
	"context"
	"time"

	"github.com/docker/go-units"

	"github.com/layerbuild/layerbuild/gc"
	"github.com/layerbuild/layerbuild/namespace"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/stores"
)

// collect applies the gc policy after a build, if that is due. The build has gone well without
// it, so what goes wrong is a warning. Where a user's process cannot remove snapshots, a later
// build does it, see mayCollect.
func collect(ctx context.Context, o Options) {
	if !namespace.Ready() || !gc.Due(o.StateDir, o.Policy, time.Now()) {
		return
	}
	report := func(kind progress.Kind, text string) {
		o.Sink.Report(progress.Event{Time: time.Now(), Kind: kind, Text: "gc: " + text})
	}
	var freed int64
	var n int
	err := gc.Collect(ctx, o.StateDir, o.Policy, func(removed gc.Removed) {
		n++
		freed += removed.Item.Bytes()
		report(progress.Debug, "removed "+removed.Item.Type+" "+removed.Item.ID+": "+removed.Rule)
	})
	if n > 0 {
		report(progress.Notice, "removed "+count(n, "item")+" of the state folder, "+units.HumanSize(float64(freed)))
	}
	if err != nil && ctx.Err() == nil {
		report(progress.Warning, err.Error())
	}
}

// mayCollect enters the user's namespace early, if collect is due: without it snapshots cannot
// be removed. So once an hour even a build that finds everything in the cache collects.
func mayCollect(o Options) {
	if !o.Plan && !namespace.Ready() && gc.Due(o.StateDir, o.Policy, time.Now()) {
		_ = stores.Enter(o.StateDir) // without it nothing is removed
	}
}
