package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// tellMoved reports once that the state folder was copied or restored, and what becomes of it.
func (b *Builder) tellMoved() {
	if !b.Snapshots.Moved() {
		return
	}
	b.report(progress.Event{Kind: progress.Notice, Text: fmt.Sprintf(
		"%s was moved here or restored: each root filesystem in it is compared with what it was, or made again, before it is used", b.Snapshots.Dir())})
	_ = b.Snapshots.ToldMoved() // or it is said once more
}

// hasProven is has for a snapshot whose files are about to be used. One that came with a copied state
// folder is compared with its DiffID first; a base's layer is made again if its blob is there, since that
// takes no longer. One that is not what it was is removed.
func (b *Builder) hasProven(ctx context.Context, l *layers.Layer, c *chain) (bool, error) {
	if !b.has(ctx, c) {
		return false, nil
	}
	snap, err := b.Snapshots.Get(c.id)
	if err != nil {
		return false, snapshotDamage(err)
	}
	if b.Snapshots.Proven(snap) {
		return true, nil
	}
	lock, err := b.Cache.Lock(ctx, buildcache.Key(c.id.Encoded()), "has been comparing layer "+c.diff.String())
	if err != nil {
		return false, err
	}
	defer lock.Unlock()
	if b.Snapshots.Proven(snap) {
		return true, nil
	}
	if c.ofBase && b.packed(ctx, c) && b.Blobs.Has(*c.blob.Load()) {
		return false, b.Snapshots.Discard(c.id)
	}
	defer b.doing(l, "comparing "+c.diff.Encoded()[:12])()
	return b.prove(ctx, snap)
}

// prove compares a snapshot with what it was, and removes it if it is not that, or if nobody knows.
func (b *Builder) prove(ctx context.Context, snap overlay.Snapshot) (bool, error) {
	comparer, err := b.comparer()
	if err != nil {
		return false, err
	}
	exact, err := comparer.Exact(ctx, snap)
	switch {
	case err != nil && !errors.Is(err, overlay.ErrInvalid):
		return false, err
	case exact:
		return true, b.Snapshots.Prove(snap.ID)
	}
	b.report(progress.Event{Kind: progress.Notice, Text: fmt.Sprintf("%s lost something when the state folder was copied: it is made again", snap.Description)})
	return false, b.Snapshots.Discard(snap.ID)
}

// proven reports whether a snapshot, with all below it, is there and what it was.
func (b *Builder) proven(ctx context.Context, id digest.Digest) (bool, error) {
	var chain []overlay.Snapshot
	for id != "" {
		snap, err := b.Snapshots.Get(id)
		if err != nil {
			return false, nil
		}
		chain = append(chain, snap)
		id = snap.Parent
	}
	for _, snap := range slices.Backward(chain) {
		if b.Snapshots.Proven(snap) {
			continue
		}
		if ok, err := b.prove(ctx, snap); !ok {
			return false, err
		}
	}
	return true, nil
}
