package oci

import (
	"context"
	"os"
	"path/filepath"

	"github.com/layerbuild/layerbuild/locks"
)

// Destroy removes the layout with all that is in its folder, at once as others
// see it. It waits for writers.
func (l *Layout) Destroy(ctx context.Context) error {
	return l.locked(ctx, locks.Exclusive, func() error {
		gone, err := os.MkdirTemp(filepath.Dir(l.path), ".layerbuild-removed-")
		if err != nil {
			return err
		}
		if err := os.Rename(l.path, filepath.Join(gone, "layout")); err != nil {
			return err
		}
		return os.RemoveAll(gone)
	})
}
