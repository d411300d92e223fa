package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// errDamaged is in the chain of errors about things of the state folder that were
// found to be damaged or gone when they were used. What was damaged has been put
// aside: a build that begins anew does not find it, and makes it again.
var errDamaged = errors.New("damaged")

// damaged makes an error one that the build begins anew for.
func damaged(err error) error { return fmt.Errorf("%w: %w", errDamaged, err) }

// attempts is how often a build begins that meets damage. Each attempt finds in
// the cache what the one before has made.
const attempts = 3

// snapshotDamage tells damage from other errors about a snapshot that was there.
func snapshotDamage(err error) error {
	if errors.Is(err, overlay.ErrInvalid) || errors.Is(err, overlay.ErrNotFound) {
		return damaged(err)
	}
	return err
}

// has tells whether there is a snapshot of a chain's highest layer, and keeps it
// from being removed until the build ends. A damaged one is put aside.
func (b *Builder) has(ctx context.Context, c *chain) bool {
	err := b.Snapshots.Hold(ctx, c.id)
	if errors.Is(err, overlay.ErrInvalid) {
		b.report(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("%s: it is put aside in the state folder's corrupt folder", err)})
		_, _ = b.Snapshots.PutAside(c.id)
	}
	return err == nil
}

// withManifest does what needs the manifest of a tree that was measured. If the
// manifest was removed since, or is damaged, the source is measured once more.
func (s *source) withManifest(ctx context.Context, at imports.Source, tree imports.Tree, do func() error) error {
	err := do()
	if !errors.Is(err, imports.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	again, measureErr := s.b.Sources.Digest(ctx, at)
	if measureErr != nil {
		return errors.Join(err, measureErr)
	}
	if again.Digest != tree.Digest {
		return &imports.ChangedError{Path: s.from.Raw}
	}
	return do()
}
