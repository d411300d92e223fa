package oci

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// diffIDAttribute is an extended attribute of blobs that were compared: the DiffID that they
// have. Without it, and where the filesystem has none, they are compared again.
const diffIDAttribute = "user.layerbuild.diffid"

// checkDiffID compares the content of a layer's blob, which is read from f, with its DiffID.
// That it has another is an ErrCorrupt.
func (s *Store) checkDiffID(ctx context.Context, f *os.File, l Layer) error {
	known := make([]byte, len(l.DiffID)+1)
	if n, err := unix.Fgetxattr(int(f.Fd()), diffIDAttribute, known); err == nil && string(known[:n]) == string(l.DiffID) {
		return nil
	}
	err := s.readLayer(ctx, f, l, nil, func(context.Context, *digestPipe, *tally) error { return nil })
	if err == nil {
		_ = unix.Fsetxattr(int(f.Fd()), diffIDAttribute, []byte(l.DiffID), 0)
	}
	return err
}
