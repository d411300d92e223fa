package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
)

// Clean removes the OCI layout that builds wrote to, and returns what it held.
// Anything else at its place is refused and left alone.
func Clean(ctx context.Context, ociDir, stackerfile string, load layers.Options) (*Inspection, error) {
	if _, err := os.Lstat(ociDir); errors.Is(err, fs.ErrNotExist) {
		return &Inspection{}, nil
	}
	layout, err := oci.OpenLayout(ociDir)
	if err != nil {
		return nil, err
	}
	found, err := Inspect(ociDir, stackerfile, load)
	if err != nil {
		return nil, err
	}
	return found, layout.Destroy(ctx)
}

// Forget removes all that is remembered between builds. It is refused while a
// build uses it.
func Forget(ctx context.Context, stateDir string) error {
	if _, err := os.Lstat(filepath.Join(stateDir, "version")); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(stateDir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("%s is no state folder of layerbuild: it is left alone", stateDir)
	}
	roots, err := overlay.Roots(stateDir)
	if err != nil {
		return err
	}
	if err := buildcache.Destroy(ctx, stateDir); err != nil || roots == stateDir {
		return err
	}
	snapshots, err := overlay.Open(roots)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(roots, ownersFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return snapshots.Clear(ctx)
}
