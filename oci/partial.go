package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
)

// partPath returns where the part of a blob that has come is kept until all of it is there.
func (s *Store) partPath(d digest.Digest) string {
	return filepath.Join(s.partial, "blob-"+d.Encoded())
}

// resume starts a blob with what an earlier build has left of it. What is left when
// the Writer is closed without a commit stays for the next one, unless it could not be
// written. It is compared with the digest as a whole, so it need not be trusted.
//
// Whoever calls it has the lock of the blob's part: see takeBlob.
func (s *Store) resume(ctx context.Context, d Descriptor) (*Writer, error) {
	if err := s.state.MakeWay(s.partPath(d.Digest)); err != nil {
		return nil, fmt.Errorf("writing a blob: %w", err)
	}
	// Shared, as NewFile does: it is the hold on the blob that this becomes.
	f, err := locks.TryOpen(s.partPath(d.Digest), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, locks.Shared)
	if err != nil {
		return nil, fmt.Errorf("writing a blob: %w", err)
	}
	w := newWriter(ctx, s, f)
	w.keep = true
	w.size, err = io.Copy(w.sum, ctxReader{ctx, io.LimitReader(f, d.Size+1)})
	w.sent = w.size
	if err == nil && (w.size > d.Size || w.size == d.Size && sumDigest(w.sum) != d.Digest) {
		err = w.Reset()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading what came of blob %s: %w", d.Digest, err), w.Close())
	}
	return w, nil
}
