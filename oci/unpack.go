package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"

	apexlog "github.com/apex/log"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/umoci/oci/layer"
	"golang.org/x/sys/unix"
)

// umoci logs to a logger of its own that writes to the terminal. What it says
// is for debugging, so it goes where our own debug messages go.
func init() { apexlog.SetHandler(apexlog.HandlerFunc(logThrough)) }

func logThrough(e *apexlog.Entry) error {
	attrs := make([]any, 0, 2*len(e.Fields)+2)
	attrs = append(attrs, "from", "umoci")
	for _, name := range e.Fields.Names() {
		attrs = append(attrs, name, e.Fields.Get(name))
	}
	slog.Debug(e.Message, attrs...)
	return nil
}

// Unpack applies a layer to root, which is a mounted view of all layers below
// it: whiteouts delete what is there, and folders that the layer does not name
// keep their owner, mode and times. (umoci's own overlayfs format would invent
// them as root's, mode 0755.)
//
// The blob is decompressed and its DiffID checked in the same pass, on goroutines
// of their own. After an error, also one about the DiffID, root is in no defined
// state and is to be thrown away. In a user namespace it is a *PrivilegeError for
// what only root can make. A blob that turns out to be damaged is moved
// to the state's corrupt folder; the error is an ErrCorrupt. progress, if not
// nil, is told how many bytes of the blob have been read, of how many.
func (s *Store) Unpack(ctx context.Context, l Layer, root string, progress func(done, total int64)) error {
	return s.Stage(ctx, l, root, nil, progress)
}

// ErrApart says that a layer cannot be unpacked apart from those below it. Whether it
// can be at all, Unpack tells.
var ErrApart = errors.New("it depends on the layers below it")

// Changes are told what a layer does, entry by entry and before it is done, when it
// is unpacked where the layers below it are not. Paths are clean and begin at the
// root, which is "". False ends it with ErrApart.
type Changes interface {
	Make(path string, folder bool) bool // a file, in place of what is there if that or this is no folder
	Link(target string) bool            // the file that is about to be made is a hardlink to this one
	Remove(path string) bool            // whatever the layers below have there
	Empty(folder string) bool           // of whatever the layers below have in it
}

// Stage is Unpack to a folder where the layers below are not: removals are only told
// to changes. It fails with ErrApart where an entry is not what it is without them, or
// is an error.
func (s *Store) Stage(ctx context.Context, l Layer, root string, changes Changes, progress func(done, total int64)) error {
	err := s.unpack(ctx, l, root, changes, progress)
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrApart) {
		return err
	}
	if damage := s.inspect(l.Descriptor); damage != nil {
		return damage
	}
	return err
}

func (s *Store) unpack(ctx context.Context, l Layer, root string, changes Changes, progress func(done, total int64)) error {
	if _, err := layerType(l.MediaType); err != nil {
		return err
	}
	f, err := s.Open(l.Descriptor)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.readLayer(ctx, f, l, progress, func(ctx context.Context, p *digestPipe, count *tally) error {
		return s.extract(ctx, p, root, changes, count)
	})
}

// readLayer decompresses a layer's blob, from f, and compares its DiffID. What there is to
// do with the content is done by consume, which need not read all of it.
func (s *Store) readLayer(ctx context.Context, f *os.File, l Layer, progress func(done, total int64),
	consume func(context.Context, *digestPipe, *tally) error) error {
	ctx, cancel := context.WithCancel(ctx)
	p := newDigestPipe(ctx)
	count := &tally{Bounds: s.Bounds, blob: l.Size}
	done := make(chan struct{})
	defer func() { cancel(); <-done }() // f stays open until nobody reads it
	go func() {
		defer close(done)
		p.CloseWrite(inflateLayer(p, f, l.MediaType, count, progress))
	}()

	if err := consume(ctx, p, count); err != nil {
		return err
	}
	// What follows the tar's end belongs to the DiffID too.
	if _, err := p.WriteTo(io.Discard); err != nil {
		return err
	}
	if got := p.result(); got != l.DiffID {
		return fmt.Errorf("its uncompressed content has the digest %s, its image says %s: %w", got, l.DiffID, ErrCorrupt)
	}
	return nil
}

// layerCompressions are what the media types of layers say.
var layerCompressions = map[string]string{
	ispec.MediaTypeImageLayer:     "",
	ispec.MediaTypeImageLayerGzip: "gzip",
	ispec.MediaTypeImageLayerZstd: "zstd",
}

// inflateLayer writes the uncompressed content of a layer's blob to w. That its
// bytes are compressed in another way than its media type says is an error; only
// a plain tar is taken for any, as umoci and podman do.
func inflateLayer(w *digestPipe, f *os.File, mediaType string, count *tally, progress func(done, total int64)) error {
	magic, err := magicOf(f)
	if err != nil {
		return err
	}
	compression := compressionOf(magic)
	if compression != "" && compression != layerCompressions[mediaType] {
		return fmt.Errorf("it is compressed with %s, its media type %q says otherwise", compression, mediaType)
	}
	var blob io.Reader = f
	if progress != nil {
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		blob = &meteredReader{r: f, size: fi.Size(), progress: progress}
	}
	z, err := decompressor(blob, compression)
	if err != nil {
		return err
	}
	defer z.Close()
	_, err = w.ReadFrom(count.reader(z))
	return err
}

// A meteredReader tells how many bytes have been read of it.
type meteredReader struct {
	r        io.Reader
	done     int64
	size     int64
	progress func(done, total int64)
}

func (m *meteredReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	m.progress(m.done, m.size)
	return n, err
}

// extract applies the entries of a tar stream to root. changes is nil where all layers
// below are there.
func (s *Store) extract(ctx context.Context, r io.Reader, root string, changes Changes, count *tally) error {
	ids, err := newIDsHere()
	if err != nil {
		return err
	}
	to, err := s.applierTo(root)
	if err != nil {
		return err
	}
	defer to.close()
	apart := func(err error) error {
		if err != nil && changes != nil {
			return fmt.Errorf("%w: %w", ErrApart, err)
		}
		return err
	}
	tr := tar.NewReader(r)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return apart(to.finish())
		}
		if err != nil {
			return fmt.Errorf("reading its tar: %w", err)
		}
		if err := count.entry(hdr); err != nil {
			return err
		}
		switch hdr.Typeflag {
		case tar.TypeXGlobalHeader: // `git archive` begins with one; it names no file
			continue
		case tar.TypeGNUSparse, tar.TypeCont: // to umoci these are unknown
			hdr.Typeflag = tar.TypeReg
		}
		if err := fillXattrs(hdr); err != nil {
			return fmt.Errorf("%.200q: %w", hdr.Name, err)
		}
		if err := ids.check(hdr); err != nil {
			return err
		}
		if err := checkWhiteout(hdr.Name); err != nil {
			return err
		}
		if changes != nil {
			removes, ok := tell(changes, hdr)
			if !ok {
				return fmt.Errorf("%.200q: %w", hdr.Name, ErrApart)
			}
			if removes {
				continue
			}
		}
		if err := apart(to.entry(hdr, ctxReader{ctx, tr})); err != nil {
			return err
		}
	}
}

// An applier applies the entries of one layer to a folder. Paths are resolved within it.
type applier interface {
	entry(hdr *tar.Header, content io.Reader) error
	finish() error // once, after the last
	close()
}

// applierTo returns an extractor, or umoci where the Store or the kernel wants that.
func (s *Store) applierTo(root string) (applier, error) {
	if s.ByUmoci {
		return &umociApplier{newUmociExtractor(), root}, nil
	}
	x, err := newExtractor(root)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return &umociApplier{newUmociExtractor(), root}, nil
	}
	return x, err
}

// A umociApplier is umoci's own.
type umociApplier struct {
	*layer.TarExtractor
	root string
}

func (u *umociApplier) entry(hdr *tar.Header, r io.Reader) error {
	name := hdr.Name // umoci changes it
	if err := u.UnpackEntry(u.root, hdr, r); err != nil {
		return fmt.Errorf("%.200q: %w", name, err)
	}
	return nil
}

func (u *umociApplier) finish() error { return nil }
func (u *umociApplier) close()        {}

// tell tells changes what an entry does, in the words that umoci understands it, and
// whether that is to remove something.
func tell(changes Changes, hdr *tar.Header) (removes, ok bool) {
	name := clean(hdr.Name)
	dir, base := path.Split(name)
	dir = clean(dir)
	switch removed, removes := strings.CutPrefix(base, ".wh."); {
	case removes && (removed == "" || base == ".wh..wh..opq"):
		return true, changes.Empty(dir)
	case removes:
		return true, changes.Remove(path.Join(dir, removed))
	case hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0: // overlayfs's whiteout
		return false, false
	case hdr.Typeflag == tar.TypeLink && !changes.Link(clean(hdr.Linkname)):
		return false, false
	}
	for name := range hdr.Xattrs { //nolint:staticcheck // what umoci reads
		if _, own := cutOverlay(name); own { // a mount would give it another name
			return false, false
		}
	}
	return false, changes.Make(name, hdr.Typeflag == tar.TypeDir)
}

// clean is the path from the root that a name in a tar stands for.
func clean(name string) string { return path.Clean("/" + name)[1:] }

// checkWhiteout refuses a whiteout of "..": umoci would remove the folder above, and
// that of the root is none of the layer's. (OCI image spec, layer.md, "Whiteouts".)
func checkWhiteout(name string) error {
	if removed, ok := strings.CutPrefix(path.Base(clean(name)), ".wh."); ok && (removed == "." || removed == "..") {
		return fmt.Errorf("%.200q: it removes %q, which is no file of its folder", name, removed)
	}
	return nil
}

// ctxReader ends a long read when ctx is cancelled.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Prefixes of pax records that hold extended attributes.
const (
	paxXattr    = "SCHILY.xattr."     // name=value, the usual form
	paxXattrURL = "LIBARCHIVE.xattr." // URL-encoded name=base64 of the value
)

// fillXattrs completes what archive/tar tells umoci of a file's extended
// attributes: it leaves out those with an empty value, and knows only the usual
// form, which cannot say names with a '='.
func fillXattrs(hdr *tar.Header) error {
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok && value == "" {
			setXattr(hdr, name, value)
		}
		if encoded, ok := strings.CutPrefix(key, paxXattrURL); ok {
			name, value, err := decodeXattr(encoded, value)
			if err != nil {
				return err
			}
			if _, ok := hdr.PAXRecords[paxXattr+name]; !ok {
				setXattr(hdr, name, value)
			}
		}
	}
	return nil
}

func setXattr(hdr *tar.Header, name, value string) {
	if hdr.Xattrs == nil { //nolint:staticcheck // umoci reads this field
		hdr.Xattrs = map[string]string{} //nolint:staticcheck
	}
	hdr.Xattrs[name] = value //nolint:staticcheck
}
