package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
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
