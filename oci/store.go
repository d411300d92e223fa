package oci

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// Descriptor names a blob by media type, digest and size.
type Descriptor = ispec.Descriptor

// ErrCorrupt is the cause of an error when a blob is not what its digest says.
var ErrCorrupt = errors.New("corrupt blob")

// A Store is the state folder's own OCI layout: blobs by digest, shared by all
// builds of a user, also by concurrent processes.
//
// A blob is written once and never modified. It is born in the state's tmp
// folder, checked while it is written, synced, and only then renamed to
// layout/blobs/sha256/<hex>; so what is there is whole. Its index.json is empty:
// what refers to a blob is a record or a Base.
//
// A blob that a Store has found or made is in use until Close: no process removes
// it. That is a shared flock on the blob's file.
type Store struct {
	state   statedir.Dir
	dir     string // the layout
	blobs   string // dir/blobs/sha256
	partial string // blobs of which a part has come
	cores   cores

	// Bounds hold for layers that are taken in or unpacked. Set it before.
	Bounds Bounds

	// ByUmoci has umoci write the files of layers that are unpacked, all of them. Set it
	// before.
	ByUmoci bool

	held statedir.Held
	mu   sync.Mutex
	made map[digest.Digest]bool // written by this Store
}

// OpenStore opens the store in a state folder and makes it if need be. What
// processes that were killed left in tmp is removed.
func OpenStore(state string) (*Store, error) {
	dir := filepath.Join(state, "layout")
	s := &Store{
		state:   statedir.Dir(state),
		dir:     dir,
		blobs:   filepath.Join(dir, ispec.ImageBlobsDir, digest.SHA256.String()),
		partial: filepath.Join(state, "partial"),
		cores:   newCores(runtime.GOMAXPROCS(0)),
		made:    map[digest.Digest]bool{},
	}
	for _, dir := range []string{s.state.Path("tmp"), s.partial} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("making the state folder: %w", err)
		}
	}
	if err := fillLayout(dir); err != nil {
		return nil, fmt.Errorf("making the state's layout: %w", err)
	}
	if err := s.state.Sweep(statedir.Blobs, statedir.RemoveLeft); err != nil {
		return nil, fmt.Errorf("sweeping the state's tmp folder: %w", err)
	}
	return s, nil
}

// Path returns where the blob of that digest is, or would be. The digest must
// be valid.
func (s *Store) Path(d digest.Digest) string { return filepath.Join(s.blobs, d.Encoded()) }

// Has reports whether the store has the blob, with the descriptor's size, and
// keeps it from being removed until Close. The content is not read.
func (s *Store) Has(d Descriptor) bool {
	if checkDigest(d.Digest) != nil {
		return false
	}
	path := s.Path(d.Digest)
	f, _ := s.held.Hold(path, func() (*os.File, error) { return lockBlob(path, locks.Shared), nil })
	if f != nil && !sized(f, d) {
		s.held.Release(path)
		return false
	}
	return f != nil
}

func sized(f *os.File, d Descriptor) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode().IsRegular() && fi.Size() == d.Size
}

// lockBlob locks a blob's file; nil if it is not there or cannot be locked that
// way. Whoever removes a blob has it locked while that takes, so there is no
// use in waiting for it.
func lockBlob(path string, how int) *os.File {
	f, err := locks.TryOpen(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, how)
	if err != nil {
		return nil
	}
	return f
}

// Close ends the use of all blobs.
func (s *Store) Close() error { return s.held.Close() }

// Open opens a blob for reading. Its size is checked now, its content is not:
// see OpenVerified. The error of a missing blob is fs.ErrNotExist, that of a
// blob with another size ErrCorrupt.
func (s *Store) Open(d Descriptor) (*os.File, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	return openSized(s.Path(d.Digest), d)
}

// openSized opens the regular file that holds d. It never blocks on a fifo.
func openSized(path string, d Descriptor) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening blob %s: %w", d.Digest, errors.Unwrap(err))
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("blob %s is not a regular file: %w", d.Digest, ErrCorrupt)
	}
	if err == nil && fi.Size() != d.Size {
		err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", d.Digest, fi.Size(), d.Size, ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OpenVerified opens a blob whose content is checked while it is read: the read
// that reaches the end returns an ErrCorrupt instead of io.EOF when the content
// is not what the digest says.
func (s *Store) OpenVerified(d Descriptor) (io.ReadCloser, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	return verified(f, d), nil
}

// verifiedReader compares what was read with a digest and a size when the end is reached.
type verifiedReader struct {
	io.ReadCloser
	want Descriptor
	sum  hash.Hash
	n    int64
}

func verified(r io.ReadCloser, want Descriptor) io.ReadCloser {
	return &verifiedReader{ReadCloser: r, want: want, sum: sha256.New()}
}

func (v *verifiedReader) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.sum.Write(p[:n])
	v.n += int64(n)
	if err == io.EOF {
		if bad := compare(v.want, sumDigest(v.sum), v.n); bad != nil {
			return n, bad
		}
	}
	return n, err
}

// compare returns an ErrCorrupt when a content's digest and size are not the wanted ones.
func compare(want Descriptor, got digest.Digest, size int64) error {
	switch {
	case size != want.Size:
		return fmt.Errorf("blob %s has %d bytes, its descriptor says %d: %w", want.Digest, size, want.Size, ErrCorrupt)
	case got != want.Digest:
		return fmt.Errorf("blob %s: its content's digest is %s: %w", want.Digest, got, ErrCorrupt)
	}
	return nil
}

func sumDigest(h hash.Hash) digest.Digest { return digest.NewDigest(digest.SHA256, h) }

// checkDigest refuses what is not a sha256 digest in canonical form; only those
// may become part of a path. OCI image spec, descriptor.md, "Digests".
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: only sha256 is supported", d)
	}
	return nil
}

// Put reads a blob from r and keeps it. Nothing is read when the store has it
// already; nothing is kept when r holds something else, which is an ErrCorrupt.
// Only Digest and Size of want are looked at.
func (s *Store) Put(ctx context.Context, r io.Reader, want Descriptor) error {
	if s.Has(want) {
		return nil
	}
	w, err := s.NewWriter(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	// One byte more than wanted is enough to know that a source is too long.
	if _, err := io.Copy(w, io.LimitReader(r, want.Size+1)); err != nil {
		return err
	}
	return w.CommitAs(want)
}

// PutBytes keeps content as a blob and returns its descriptor.
func (s *Store) PutBytes(ctx context.Context, mediaType string, content []byte) (Descriptor, error) {
	d := descriptorOf(mediaType, content)
	if s.Has(d) {
		if _, err := s.ReadAll(d); err == nil {
			return d, nil
		}
		_ = s.inspect(d) // a damaged one is put aside
	}
	w, err := s.NewWriter(ctx)
	if err != nil {
		return Descriptor{}, err
	}
	defer w.Close()
	if _, err := w.Write(content); err != nil {
		return Descriptor{}, err
	}
	return d, w.CommitAs(d)
}

// descriptorOf describes content.
func descriptorOf(mediaType string, content []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// ReadAll returns a blob's content, checked. It is meant for manifests and
// configs: more than 16 MiB is an error.
func (s *Store) ReadAll(d Descriptor) ([]byte, error) {
	if d.Size > maxDocument {
		return nil, fmt.Errorf("blob %s: %d bytes are too many for a manifest or config", d.Digest, d.Size)
	}
	r, err := s.OpenVerified(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// maxDocument bounds what is read into memory of a manifest, an index or a config.
const maxDocument = 16 << 20

// A Writer writes one new blob. It is digested while it is written, so nothing
// is read twice. Either Commit or CommitAs makes the blob seen; Close without
// them leaves nothing behind, unless the blob is one that can be resumed. A Writer is
// for one goroutine.
type Writer struct {
	s    *Store
	ctx  context.Context
	f    *os.File
	sum  hash.Hash
	size int64
	sent int64 // of them the disk was told to write
	keep bool  // leave what there is to be resumed

	wrote func(n int64) // told what is written or, negative, taken back; may be nil
}

// NewWriter starts a blob. Writing fails once ctx is cancelled.
func (s *Store) NewWriter(ctx context.Context) (*Writer, error) {
	f, err := s.state.NewFile(statedir.Blobs)
	if err != nil {
		return nil, fmt.Errorf("writing a blob: %w", err)
	}
	return newWriter(ctx, s, f), nil
}

func newWriter(ctx context.Context, s *Store, f *os.File) *Writer {
	return &Writer{s: s, ctx: ctx, f: f, sum: sha256.New()}
}

// Write appends to the blob.
func (w *Writer) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	n, err := w.f.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	if w.wrote != nil {
		w.wrote(int64(n))
	}
	w.send()
	if err != nil {
		w.keep = false // what fills the disk is of no use
		err = fmt.Errorf("writing a blob: %w", err)
	}
	return n, err
}

// mostUnsent is how much is left for Commit to wait for.
const mostUnsent = 8 << 20

// send has the disk begin with what was written, while more is made. What it cannot
// write is told when the file is synced.
func (w *Writer) send() {
	if left := w.size - w.sent; left >= mostUnsent {
		_ = unix.SyncFileRange(int(w.f.Fd()), w.sent, left, unix.SYNC_FILE_RANGE_WRITE)
		w.sent = w.size
	}
}

// Size returns how many bytes were written so far: where a download that was
// cut goes on.
func (w *Writer) Size() int64 { return w.size }

// Digest returns the digest of what was written so far.
func (w *Writer) Digest() digest.Digest { return sumDigest(w.sum) }

// Reset starts the blob again from nothing.
func (w *Writer) Reset() error {
	if err := w.f.Truncate(0); err != nil {
		return fmt.Errorf("writing a blob: %w", err)
	}
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("writing a blob: %w", err)
	}
	w.sum.Reset()
	if w.wrote != nil {
		w.wrote(-w.size)
	}
	w.size, w.sent = 0, 0
	return nil
}

// Commit keeps what was written, under its own digest.
func (w *Writer) Commit() (Descriptor, error) {
	d := Descriptor{Digest: sumDigest(w.sum), Size: w.size}
	return d, w.CommitAs(d)
}

// CommitAs keeps what was written if it is what want says, by Digest and Size;
// otherwise the error is an ErrCorrupt and nothing is kept.
func (w *Writer) CommitAs(want Descriptor) error {
	defer w.Close()
	w.keep = false
	if err := checkDigest(want.Digest); err != nil {
		return err
	}
	if err := compare(want, sumDigest(w.sum), w.size); err != nil {
		return err
	}
	if w.s.Has(want) { // another process was faster
		return nil
	}
	if err := w.s.state.Publish(w.f, w.s.Path(want.Digest), 0o444); err != nil {
		return fmt.Errorf("keeping blob %s: %w", want.Digest, err)
	}
	w.s.hold(want.Digest, w.f)
	w.f = nil // its name in tmp is gone
	return nil
}

// commitLayer is CommitAs, if what was written has the layer's DiffID as well, where that is known.
func (w *Writer) commitLayer(l Layer) error {
	err := compare(l.Descriptor, sumDigest(w.sum), w.size)
	if err == nil && l.DiffID != "" {
		if _, err = w.f.Seek(0, io.SeekStart); err == nil {
			err = w.s.checkDiffID(w.ctx, w.f, l)
		}
	}
	if err != nil {
		w.keep = false
		return err
	}
	return w.CommitAs(l.Descriptor)
}

// hold keeps a blob that this Store has written, by a file that is locked, from being removed.
func (s *Store) hold(d digest.Digest, f *os.File) {
	s.held.Put(s.Path(d), f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made[d] = true
}

// wrote reports whether this Store has written a blob.
func (s *Store) wrote(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made[d]
}

// Close gives up a blob that was not committed. It may be called again.
func (w *Writer) Close() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	if !w.keep || w.size == 0 {
		os.Remove(f.Name())
	}
	return f.Close()
}

// inspect reads a blob that gave an error. If its content is not what its digest
// says the blob is moved to the state's corrupt folder and is no longer there:
// it can be taken in, or packed, again.
func (s *Store) inspect(d Descriptor) error {
	r, err := s.OpenVerified(d)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		r.Close()
	}
	if !errors.Is(err, ErrCorrupt) {
		return nil
	}
	if s.PutAside(d.Digest) != nil {
		return err
	}
	return fmt.Errorf("%w; it was moved to %s: build again", err, s.state.Path("corrupt"))
}

// PutAside moves a damaged blob to the state folder's corrupt folder.
func (s *Store) PutAside(d digest.Digest) error {
	_, err := s.state.PutAside(s.Path(d), "blob-"+d.Encoded())
	return err
}
