package oci

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
)

// A Stored is one blob of a Store as a listing shows it.
type Stored struct {
	Digest digest.Digest
	Size   int64 // bytes of its content
	Disk   int64 // bytes allocated on disk
	Inode  uint64
	Time   int64 // when it came, in seconds since 1970
}

// Stamp tells the folder of all blobs, while none comes, goes or is replaced, from
// what it was or will be at any other time: its inode and its ctime in nanoseconds.
func (s *Store) Stamp() (inode uint64, changed int64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(s.blobs, &st); err != nil {
		return 0, 0, fmt.Errorf("looking at %s: %w", s.blobs, err)
	}
	return st.Ino, unix.TimespecToNsec(st.Ctim), nil
}

// Blobs lists all blobs, in the order of their digests. What has no digest for a
// name is left out.
func (s *Store) Blobs(ctx context.Context) ([]Stored, error) {
	dir, err := os.Open(s.blobs)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	all := make([]Stored, 0, len(names))
	for _, name := range names {
		d := digest.Digest("sha256:" + name)
		var st unix.Stat_t
		if isSHA256(name) && unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			all = append(all, Stored{Digest: d, Size: st.Size, Disk: st.Blocks * 512, Inode: st.Ino, Time: st.Mtim.Sec})
		}
	}
	return all, ctx.Err()
}

// isSHA256 is checkDigest for many, which go-digest asks a regular expression for each.
func isSHA256(hex string) bool {
	return len(hex) == 2*sha256.Size && strings.Trim(hex, "0123456789abcdef") == ""
}

// InUse says whether any process uses a blob right now.
func (s *Store) InUse(d digest.Digest) bool {
	f := lockBlob(s.Path(d), locks.Exclusive)
	if f != nil {
		f.Close()
		return false
	}
	_, err := os.Lstat(s.Path(d))
	return err == nil
}

// Remove removes a blob. It fails with locks.ErrHeld while any process uses it; that
// it is not there is no error.
func (s *Store) Remove(d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	f := lockBlob(s.Path(d), locks.Exclusive)
	if f == nil {
		if _, err := os.Lstat(s.Path(d)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("removing blob %s: %w", d, locks.ErrHeld)
	}
	defer f.Close()
	if err := os.Remove(s.Path(d)); err != nil {
		return fmt.Errorf("removing blob %s: %w", d, err)
	}
	return nil
}

// Check reads a whole blob and compares it with its digest: an ErrCorrupt if it
// is something else.
func (s *Store) Check(ctx context.Context, d digest.Digest) error {
	f, err := openRegular(s.Path(d))
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, ctxReader{ctx, verified(f, Descriptor{Digest: d, Size: fi.Size()})})
	return err
}

// A StoredBase is a base image whose manifest and config are in the store.
type StoredBase struct {
	Manifest Descriptor
	Config   Descriptor
	Layers   []Layer
}

// maxSniffed bounds the blobs that may be manifests of bases.
const maxSniffed = 1 << 20

// Bases finds the base images among blobs by reading those that look like
// manifests. One with a damaged or missing config is left out.
func (s *Store) Bases(blobs []Stored) []StoredBase {
	var bases []StoredBase
	for _, b := range blobs {
		if b.Size > maxSniffed || !s.looksLikeJSON(b.Digest) {
			continue
		}
		base, m, err := s.readBase(b.Digest)
		if err != nil {
			continue
		}
		bases = append(bases, StoredBase{
			Manifest: Descriptor{MediaType: ispec.MediaTypeImageManifest, Digest: b.Digest, Size: b.Size},
			Config:   m.Config,
			Layers:   base.Layers,
		})
	}
	return bases
}

func (s *Store) looksLikeJSON(d digest.Digest) bool {
	f, err := openRegular(s.Path(d))
	if err != nil {
		return false
	}
	defer f.Close()
	first := make([]byte, 1)
	_, err = f.ReadAt(first, 0)
	return err == nil && first[0] == '{'
}

// BlobDigests returns the digests of all blobs that a layout's folder holds.
func (l *Layout) BlobDigests() (map[digest.Digest]bool, error) {
	entries, err := os.ReadDir(filepath.Join(l.path, ispec.ImageBlobsDir, digest.SHA256.String()))
	if err != nil {
		return nil, err
	}
	there := map[digest.Digest]bool{}
	for _, e := range entries {
		there[digest.NewDigestFromEncoded(digest.SHA256, e.Name())] = true
	}
	return there, nil
}
