package overlay

import (
	"context"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Difference returns the folder that holds what a snapshot changes of its
// parent, in overlayfs's form, for reading. Until release is called the snapshot
// is kept from being removed. It fails with ErrNotFound and ErrInvalid.
func (s *Store) Difference(ctx context.Context, id digest.Digest) (dir string, release func(), err error) {
	held, err := s.use(ctx, id)
	if err != nil {
		return "", nil, err
	}
	if _, err := s.Get(id); err != nil {
		held.Close()
		return "", nil, err
	}
	return filepath.Join(s.snapshots, id.Encoded(), "fs"), func() { held.Close() }, nil
}
