package imports

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	gomtree "github.com/vbatts/go-mtree"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A Tree says what a Source contains.
type Tree struct {
	// Digest is the sha256 of the manifest. The name of a source and where it
	// is, owners, times and hard links do not count.
	Digest digest.Digest

	Files int   // regular files
	Size  int64 // their bytes
	Dir   bool  // a folder; otherwise one file

	// Skipped are sockets, by their paths below the source: they are no content.
	Skipped []string
}

// attempts is how often a source that changes while it is read is read.
const attempts = 3

// Digest reads src, stores its manifest, and returns its Tree. Files that the
// stat index vouches for are not read again.
//
// A source that does not keep still gives a ChangedError after a few attempts.
// What cannot be read is an error with its name. A Source without a Root may not
// have to do with Options.Forbidden. A fifo, socket or device is not a source.
func (s *Store) Digest(ctx context.Context, src Source) (t Tree, err error) {
	if t, ok := s.takenOver(src); ok {
		if held, err := s.hold(ctx, s.manifestPath(t.Digest)); held || err != nil {
			return t, err
		}
	}
	for range attempts {
		var r reading
		if r, err = s.read(ctx, src, s.index); err == nil {
			err = s.keep(ctx, src, &r)
			return r.Tree, err
		}
		if !errors.Is(err, ErrChanged) {
			break
		}
	}
	return Tree{}, err
}

// takenOver returns what this process measured of src in its life before, once: who asks
// again wants to know what it is now.
func (s *Store) takenOver(src Source) (t Tree, ok bool) {
	if src.Root != "" {
		return t, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok = s.taken[src.id()]
	delete(s.taken, src.id())
	return t, ok && !src.Reread
}

// A reading is what was read of a source.
type reading struct {
	Tree           // without Digest, unless that was remembered
	folder *folder // the manifest; nil if Digest was remembered
	look   string  // what stat tells of all of it, as a digest; "" if that does not tell enough
}

// keep stores the manifest of what was read, and remembers its digest.
func (s *Store) keep(ctx context.Context, src Source, r *reading) error {
	if r.folder != nil {
		r.Digest = r.folder.digest()
		if err := s.keepManifest(ctx, r.Digest, r.folder); err != nil {
			return err
		}
		if r.look != "" {
			s.remember(src, memo{r.look, r.Tree})
		}
	}
	if src.Root == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.measured[src.id()] = r.Tree
	}
	return nil
}

// read reads src once.
func (s *Store) read(ctx context.Context, src Source, index *statIndex) (r reading, err error) {
	root, st, err := s.openSource(src)
	if err != nil {
		return r, err
	}
	defer unix.Close(root)
	if src.Root != "" && isOverlay(root) {
		// A view of snapshots. Where it is mounted the next time, its files have
		// another device number.
		index = nil
	}
	if !st.isDir() {
		e, err := s.readFile(ctx, src, root, &st, index)
		return reading{Tree: Tree{Files: 1, Size: e.Size}, folder: &folder{text: appendEntry(nil, &e, ".")}}, err
	}
	var avoid []forbidden
	if src.Root == "" {
		avoid = s.avoided()
	}
	w := newWalk(ctx, src, root, index, avoid)
	if w.filters, err = compile(src.Filters); err != nil {
		return r, err
	}
	top, err := w.look(&st.stamp)
	if err != nil {
		return r, err
	}
	if w.filters != nil {
		top.prune()
	}
	if sum, ok := w.sum(top); ok {
		r.look = hex.EncodeToString(sum[:])
		if m, ok := readMemo(s.memoPath(src.id())); ok && m.Look == r.look && !src.Reread {
			if held, err := s.hold(ctx, s.manifestPath(m.Tree.Digest)); held || err != nil {
				r.Tree = m.Tree
				return r, err
			}
		}
	}
	r.folder, err = &top.folder, w.read(top)
	r.Tree = Tree{Dir: true, Files: w.files, Size: w.size, Skipped: w.skipped}
	return r, err
}

// readFile reads a source that is one file, which is open and looks like st.
func (s *Store) readFile(ctx context.Context, src Source, fd int, st *status, index *statIndex) (Entry, error) {
	wr := &walker{walk: &walk{ctx: ctx, src: src, index: index}, buf: make([]byte, copyBuffer), hash: sha256.New()}
	e := Entry{Path: ".", Type: File, Size: st.size, Mode: wr.mode(&st.stamp), Owner: wr.owner(st)}
	r, ok := index.find(&st.stamp)
	ok = ok && !src.Reread
	var err error
	switch {
	case !ok:
		err = wr.file(fd, ".", &e, &st.stamp)
	case r.hasXattrs():
		e.Xattrs, err = xattrFile{fd: fd}.read(wr.acl())
	}
	if ok {
		e.Sum = r.sum()
	}
	if err != nil {
		return Entry{Type: File}, wr.problem(".", err)
	}
	index.add(wr.added)
	return e, nil
}

// FileDigest returns the sha256 of the content of the file that src is, and
// refuses folders. Like Digest it reads no file that the stat index vouches for.
func (s *Store) FileDigest(ctx context.Context, src Source) (digest.Digest, error) {
	var err error
	for range attempts {
		var fd int
		var st status
		if fd, st, err = s.openSource(src); err != nil {
			return "", err
		}
		if st.isDir() {
			unix.Close(fd)
			return "", fmt.Errorf("%s is a folder: only a file has a sha256", src)
		}
		var e Entry
		e, err = s.readFile(ctx, src, fd, &st, s.index)
		unix.Close(fd)
		if err == nil {
			return sha256Digest(e.Sum), nil
		}
		if !errors.Is(err, ErrChanged) {
			break
		}
	}
	return "", err
}

func sha256Digest(sum [sha256.Size]byte) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:]))
}

// openSource opens the file or folder that src is.
func (s *Store) openSource(src Source) (fd int, st status, err error) {
	fd, err = s.openPath(src)
	if err != nil {
		return -1, st, sourceError(src, err)
	}
	defer unix.Close(fd)
	if st, err = statFd(fd); err != nil {
		return -1, st, named(src.Path, err)
	}
	switch {
	case st.isDir():
		fd, err = unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	case !st.isRegular():
		return -1, st, fmt.Errorf("%s is a %s: an import is a file or a folder", src, typeWord(st.kind()))
	case src.Content:
		return -1, st, fmt.Errorf("%s is a file: leave out the / at its end", src)
	default:
		// What is open by O_PATH is regular, so this does not block.
		fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, st, sourceError(src, err)
	}
	return fd, st, nil
}

// openPath opens src with O_PATH: whatever it is, this neither blocks nor reads.
func (s *Store) openPath(src Source) (int, error) {
	fd, err := src.open()
	if err != nil || src.Root != "" {
		return fd, err
	}
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err == nil {
		err = s.refuse(src.Path, real)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// open opens the source with O_PATH.
func (src Source) open() (int, error) {
	within := src.Root + src.Within
	if within == "" {
		return unix.Open(src.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	handle, err := inroot.Open(within, src.Path)
	if err != nil {
		return -1, err
	}
	defer handle.Close()
	return unix.FcntlInt(handle.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

func sourceError(src Source, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%s does not exist: %w", src, err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s cannot be read: %w", src, err)
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%s is a symlink that leads to itself: %w", src, err)
	}
	return err
}

func typeWord(t Type) string {
	switch t {
	case 0:
		return "socket"
	case Char, Block:
		return "device"
	}
	return t.String()
}

// manifestPath is where the manifest of a tree is.
func (s *Store) manifestPath(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(s.state, "trees", hex[:2], hex)
}

// digest returns the digest of the manifest of the tree at f.
func (f *folder) digest() digest.Digest {
	h := sha256.New()
	_ = writeManifest(h, f) // a hash takes all
	return digest.NewDigest(digest.SHA256, h)
}

// keepManifest stores the manifest of f, whose digest is d, unless it is there.
// Until Close nobody removes it.
func (s *Store) keepManifest(ctx context.Context, d digest.Digest, f *folder) error {
	path := s.manifestPath(d)
	if held, err := s.hold(ctx, path); held || err != nil {
		return err
	}
	// One at a time: what one process holds another may not replace.
	if err := s.dir().MakeWay(path); err != nil {
		return err
	}
	making, err := locks.Take(ctx, path+".lock", "has been reading the same import")
	if err != nil {
		return err
	}
	defer making.Unlock()
	for {
		if held, err := s.hold(ctx, path); held || err != nil {
			return err
		}
		if err := s.storeManifest(path, f); err != nil {
			return fmt.Errorf("storing the manifest of a tree: %w", err)
		}
	}
}

func (s *Store) storeManifest(path string, f *folder) error {
	return s.writeFile(path, func(w io.Writer) error {
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			return err
		}
		return errors.Join(writeManifest(z, f), z.Close())
	})
}

// writeFile makes a file of the state folder: whole and synced, or not at all.
func (s *Store) writeFile(path string, write func(io.Writer) error) error {
	return s.dir().Write(path, 0o644, write)
}

// openManifest reads the manifest file at path.
func openManifest(path string, d digest.Digest) ([]Entry, error) {
	f, err := statedir.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readManifest(f, int(st.Size()/minCompressed), d)
}

// ErrCorrupt is in the chain of errors about a damaged file of the state folder.
var ErrCorrupt = errors.New("damaged")

// Entries returns the manifest of a tree that was digested before: each folder
// before what is in it, names in a folder sorted by their bytes. Who explains a
// change and who then makes it get the same ones, so nobody may change them.
//
// A manifest that is not there gives fs.ErrNotExist. A damaged one is put aside and gives
// ErrCorrupt: the next Digest stores it again.
func (s *Store) Entries(d digest.Digest) ([]Entry, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("tree %q: %w", d, err)
	}
	s.mu.Lock()
	read := s.entries[d]
	s.mu.Unlock()
	if read != nil {
		return read, nil
	}
	path := s.manifestPath(d)
	entries, err := openManifest(path, d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the manifest of a tree: %w", err)
	}
	if err != nil {
		_, _ = s.dir().PutAside(path, "tree-"+d.Encoded()) // if not, it is met, and put aside, again
		return nil, fmt.Errorf("manifest %s: %w: %w", path, ErrCorrupt, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= keptManifests {
		clear(s.entries)
	}
	s.entries[d] = entries
	return entries, nil
}

// keptManifests is how many manifests are kept in memory between one use and the
// next: an old one and a new one.
const keptManifests = 2

// forget drops the manifests that are kept in memory: they have served.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.entries)
}

// maxManifest bounds what a manifest may decompress to: ten million files.
const maxManifest = 2 << 30

// minCompressed is about how many bytes a compressed manifest has for each
// entry: sha256 digests do not get shorter than this.
const minCompressed = 32

// readManifest reads a manifest of about hint entries and checks that it is the one it should be.
func readManifest(f io.Reader, hint int, d digest.Digest) (entries []Entry, err error) {
	err = inflateManifest(f, d, func(r io.Reader) (err error) {
		entries, err = parseManifest(r, hint)
		return err
	})
	return entries, err
}

// readSpec is readManifest by go-mtree, which takes some times as long.
func readSpec(f io.Reader, d digest.Digest) (entries []Entry, err error) {
	err = inflateManifest(f, d, func(r io.Reader) error {
		spec, err := gomtree.ParseSpec(r)
		if err != nil {
			return err
		}
		entries, err = specEntries(spec)
		return err
	})
	return entries, err
}

// inflateManifest has a manifest parsed, and checks that it is the one it should be.
func inflateManifest(f io.Reader, d digest.Digest, parse func(io.Reader) error) error {
	z, err := zstd.NewReader(f, zstd.WithDecoderMaxMemory(maxManifest), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	h := sha256.New()
	if err := parse(io.TeeReader(io.LimitReader(z, maxManifest), h)); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, h); got != d {
		return fmt.Errorf("its content is %s", got)
	}
	return nil
}
