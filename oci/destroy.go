package oci

import (
	"context"

	"github.com/layerbuild/layerbuild/locks"
)

// Destroy removes the layout with all that is in its folder, at once as others
// see it. It waits for writers.
func (l *Layout) Destroy(ctx context.Context) error {
	return l.locked(ctx, locks.Exclusive, func() error { return locks.RemoveAll(l.path) })
}
