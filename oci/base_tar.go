package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/inroot"
)

// BaseFromTar takes in a root filesystem from a tar file below root as an image of one
// layer. The tar is taken over bit by bit: a plain, xz or bzip2 file is
// compressed by us, a gzip or zstd file is the blob itself. The compression is
// told by the first bytes, not by the name.
//
// want is the file's sha256 as the caller knows it, "" if any will do; that the
// file is another one by now is an error. In the same pass all entries are
// checked, see checkEntry; nothing counts before they are.
//
// Equal files give equal bases, whatever they are called.
func (s *Store) BaseFromTar(ctx context.Context, root, file string, want digest.Digest, p ispec.Platform) (*Base, error) {
	l, err := s.layerFromTar(ctx, root, file, want)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	base, err := s.baseOfLayer(ctx, l, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	base.Ref = file
	return base, nil
}

// baseOfLayer keeps an image of one layer, so that Base finds it again.
func (s *Store) baseOfLayer(ctx context.Context, l Layer, p ispec.Platform) (*Base, error) {
	c := ispec.Image{
		Platform: p,
		RootFS:   ispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}},
		History:  []ispec.History{{CreatedBy: "layerbuild: from a tar file"}},
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	m := ispec.Manifest{MediaType: ispec.MediaTypeImageManifest, Layers: []Descriptor{l.Descriptor}}
	m.SchemaVersion = 2
	if m.Config, err = s.PutBytes(ctx, ispec.MediaTypeImageConfig, data); err != nil {
		return nil, err
	}
	if data, err = json.Marshal(m); err != nil {
		return nil, err
	}
	d, err := s.PutBytes(ctx, ispec.MediaTypeImageManifest, data)
	if err != nil {
		return nil, err
	}
	return s.Base(d.Digest)
}

// layerFromTar makes a blob of a tar file.
func (s *Store) layerFromTar(ctx context.Context, root, file string, want digest.Digest) (Layer, error) {
	f, err := inroot.File(root, file)
	if err != nil {
		return Layer{}, bare(err)
	}
	defer f.Close()
	magic, err := magicOf(f)
	if err != nil {
		return Layer{}, bare(err)
	}
	w, err := s.NewWriter(ctx)
	if err != nil {
		return Layer{}, err
	}
	defer w.Close()

	info, err := f.Stat()
	if err != nil {
		return Layer{}, bare(err)
	}
	t := &tarFile{raw: sha256.New(), compression: compressionOf(magic), count: &tally{Bounds: s.Bounds, blob: info.Size()}}
	c := map[string]Compression{"gzip": Gzip, "zstd": Zstd}[t.compression]
	if c != "" {
		t.in = io.TeeReader(f, w) // the file is the blob
	} else {
		t.in = f
	}
	z := io.WriteCloser(nopCloser{io.Discard})
	if c == "" {
		z = newBlockWriter(w, Gzip, gzipLevel, s.cores, nil)
	}
	diffID, err := t.read(ctx, z)
	if err != nil {
		return Layer{}, err
	}
	if got := sumDigest(t.raw); want != "" && got != want {
		return Layer{}, fmt.Errorf("it changed while it was read: its sha256 is %s, before it was %s", got.Encoded(), want.Encoded())
	}
	d, err := w.Commit()
	if c == "" {
		c = Gzip
	}
	d.MediaType = c.mediaType()
	return Layer{Descriptor: d, DiffID: diffID}, err
}

// bare leaves out the path of an error of package os: the caller says it.
func bare(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// tarFile is one pass over a tar file.
type tarFile struct {
	in          io.Reader // the file
	raw         hash.Hash // of the file
	compression string
	count       *tally
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// read checks the tar and returns its DiffID. It is also written to z, and z closed.
func (t *tarFile) read(ctx context.Context, z io.WriteCloser) (digest.Digest, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := newDigestPipe(ctx)
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		p.CloseWrite(t.inflate(p))
	}()

	err := checkTar(ctx, io.TeeReader(p, z), t.compression == "", t.count)
	if err == nil {
		_, err = p.WriteTo(z) // what follows the end belongs to it too
	}
	if closeErr := z.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", err
	}
	return p.result(), nil
}

// inflate writes the uncompressed tar to the pipe and reads the file to its end.
func (t *tarFile) inflate(p *digestPipe) error {
	in := io.TeeReader(t.in, t.raw)
	z, err := decompressor(in, t.compression)
	if err != nil {
		return fmt.Errorf("it is not a whole %s file: %w", t.compression, err)
	}
	defer z.Close()
	if _, err := p.ReadFrom(t.count.reader(z)); err != nil {
		if t.compression != "" {
			err = fmt.Errorf("decompressing it with %s: %w", t.compression, err)
		}
		return err
	}
	if g, ok := z.(*gzipReader); ok && g.padded {
		return errors.New("zero bytes follow its gzip stream, which other tools do not read; compress it again")
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// checkTar reads a whole tar and checks its entries. With marker the tar must
// have its end marker, since nothing else tells that a plain one was cut between
// two entries.
func checkTar(ctx context.Context, r io.Reader, marker bool, count *tally) error {
	tail := &tailReader{r: r}
	tr := tar.NewReader(tail)
	for n := 1; ; n++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		hdr, err := tr.Next()
		switch {
		case err == io.EOF && tail.n == 0:
			return errors.New("it is empty, not a tar file")
		case err == io.EOF && marker && tail.ended && !tail.zeros():
			return errors.New("it is cut off: the end of the tar is missing")
		case err == io.EOF:
			return nil
		case n == 1 && (errors.Is(err, tar.ErrHeader) || tail.tooShort()):
			if marker {
				return errors.New("it is not a tar file, nor one compressed with gzip, zstd, xz or bzip2")
			}
			return errors.New("what it holds, decompressed, is not a tar file")
		case errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("it is cut off: the end of the tar is missing")
		case err != nil:
			return fmt.Errorf("reading entry %d of the tar: %w", n, err)
		}
		if err := count.entry(hdr); err != nil {
			return err
		}
		if err := checkEntry(hdr); err != nil {
			return err
		}
	}
}

// checkEntry refuses what cannot stand in the tar of a root filesystem: names
// that are absolute or climb out, also those of hardlinks' targets; whiteouts,
// since there is nothing below to delete; kinds that nobody can unpack.
func checkEntry(hdr *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse, tar.TypeLink, tar.TypeSymlink, //nolint:staticcheck // old tars have RegA
		tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
	default:
		return fmt.Errorf("entry %q has the unknown type %q", hdr.Name, hdr.Typeflag)
	}
	if err := checkName(hdr.Name); err != nil {
		return fmt.Errorf("entry %q %w", hdr.Name, err)
	}
	if path.Clean(hdr.Name) == "." && hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("entry %q is the root and not a folder", hdr.Name)
	}
	for part := range strings.SplitSeq(hdr.Name, "/") {
		if strings.HasPrefix(part, ".wh.") {
			return fmt.Errorf("entry %q is a whiteout: it belongs into a layer, not into a root filesystem", hdr.Name)
		}
	}
	if hdr.Typeflag == tar.TypeLink {
		if err := checkName(hdr.Linkname); err != nil {
			return fmt.Errorf("entry %q is a link to %q, which %w", hdr.Name, hdr.Linkname, err)
		}
	}
	return nil
}

// checkName refuses names that are not below the root as they stand.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("is an empty name")
	case name[0] == '/':
		return errors.New("is an absolute name")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return errors.New("climbs out with \"..\"")
		}
	}
	return nil
}

// tailReader remembers the last block of what was read.
type tailReader struct {
	r     io.Reader
	n     int64
	last  []byte
	ended bool // r is at its end
}

const tarBlock = 512

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	if n >= tarBlock {
		t.last = append(t.last[:0], p[n-tarBlock:n]...)
	} else {
		t.last = append(t.last, p[:n]...)
		t.last = t.last[max(0, len(t.last)-tarBlock):]
	}
	t.ended = t.ended || err == io.EOF
	return n, err
}

// tooShort reports whether what was read, from the beginning on, is less than the
// header of an entry, and not a part of one.
func (t *tailReader) tooShort() bool {
	const magicAt, magic = 257, "ustar"
	return t.ended && t.n < tarBlock && (t.n < magicAt || !bytes.HasPrefix(t.last[magicAt:], []byte(magic)[:min(t.n-magicAt, int64(len(magic)))]))
}

// zeros reports whether what was read ends in a whole block of zero bytes.
func (t *tailReader) zeros() bool {
	return len(t.last) == tarBlock && len(bytes.Trim(t.last, "\x00")) == 0
}
