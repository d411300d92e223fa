package engine

import (
	"cmp"
	"context"
	"slices"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/sandbox"
)

// takeCaches takes the caches of the run's layer until the run is closed, and waits for
// those that others have locked. They are taken in one order by all, so that two that
// wait do not wait for each other.
func (r *stepRun) takeCaches(ctx context.Context) (mounts []sandbox.Mount, err error) {
	byID := func(a, b layers.CacheMount) int { return cmp.Compare(a.ID, b.ID) }
	for _, m := range slices.SortedFunc(slices.Values(r.l.Caches), byID) {
		c, err := r.b.Caches.Take(ctx, m.ID, m.Sharing)
		if err != nil {
			return nil, r.b.failAt(ctx, r.l, m.Pos, err)
		}
		r.caches = append(r.caches, c)
		r.b.use(c.Name)
		mounts = append(mounts, sandbox.Mount{Source: c.Path, Dest: m.Path})
	}
	// What is in a cache is mounted over it.
	slices.SortFunc(mounts, func(a, b sandbox.Mount) int { return cmp.Compare(a.Dest, b.Dest) })
	return mounts, nil
}
