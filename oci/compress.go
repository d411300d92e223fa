package oci

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"
)

// CompressorVersion names all that decides a packed blob's bytes besides the
// files: it is part of the engine's compatibility version. It changes with the
// libraries in go.mod, with the constants below, and with the form of the tar.
const CompressorVersion = "tar-1 klauspost/compress-v1.20.3 pgzip-v1.3.0 gzip-1MiB-6 zstd-4MiB-3"

// Compression is how a packed layer is compressed.
type Compression string

// The compressions of Pack.
const (
	Gzip Compression = "gzip" // the default
	Zstd Compression = "zstd"
	None Compression = "none"
)

// Default levels, and the highest.
const (
	gzipLevel, gzipMost = 6, 9
	zstdLevel, zstdMost = 3, 22
)

// Check fills in the defaults, Gzip and a level of 0, and refuses what there is not.
func (c Compression) Check(level int) (Compression, int, error) {
	usual, most := 0, 0
	switch c {
	case Gzip, "":
		c, usual, most = Gzip, gzipLevel, gzipMost
	case Zstd:
		usual, most = zstdLevel, zstdMost
	case None:
	default:
		return c, 0, fmt.Errorf("compression %q is not known: use gzip, zstd or none", c)
	}
	if level == 0 {
		level = usual
	}
	if level < 0 || level > most {
		return c, 0, fmt.Errorf("%s has no compression level %d: use 1 to %d", c, level, most)
	}
	return c, level, nil
}

// DefaultLevel tells whether a level is the compression's default.
func (c Compression) DefaultLevel(level int) bool {
	_, usual, err := c.Check(0)
	return err == nil && level == usual
}

// mediaType returns a layer's media type.
func (c Compression) mediaType() string {
	switch c {
	case Zstd:
		return ispec.MediaTypeImageLayerZstd
	case None:
		return ispec.MediaTypeImageLayer
	}
	return ispec.MediaTypeImageLayerGzip
}

// Magic numbers of compressed files.
var (
	magicGzip  = []byte{0x1f, 0x8b}
	magicZstd  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicXz    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	magicBzip2 = []byte("BZh")
)

const magicLength = 6

// zstdWindow bounds the memory that a zstd stream may ask for: what `zstd --long`
// makes is read, more is refused.
const zstdWindow = 128 << 20

// compressionOf tells a stream's compression by its first bytes (magicLength of
// them, or as many as there are); "" when there is none.
func compressionOf(magic []byte) string {
	switch {
	case bytes.HasPrefix(magic, magicGzip):
		return "gzip"
	case bytes.HasPrefix(magic, magicZstd), isSkippableZstd(magic):
		return "zstd"
	case bytes.HasPrefix(magic, magicXz):
		return "xz"
	case bytes.HasPrefix(magic, magicBzip2):
		return "bzip2"
	}
	return ""
}

// decompressor returns the uncompressed content of r. The compression is one of
// those that compressionOf returns.
func decompressor(r io.Reader, compression string) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	switch compression {
	case "gzip":
		return newGzipReader(b)
	case "zstd":
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case "xz":
		z, err := xz.NewReader(b)
		return io.NopCloser(z), err
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(b)), nil
	}
	return io.NopCloser(b), nil
}

// magicOf returns the first bytes of a file.
func magicOf(f io.ReaderAt) ([]byte, error) {
	magic := make([]byte, magicLength)
	n, err := f.ReadAt(magic, 0)
	if err == io.EOF {
		err = nil
	}
	return magic[:n], err
}

// isSkippableZstd tells a zstd file that begins with a skippable frame (RFC 8878, 3.1.2).
func isSkippableZstd(magic []byte) bool {
	return len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18})
}

// gzipReader reads the members of a gzip file one after the other. Zero bytes
// after the last are padding, as some tools write it; anything else is an error.
type gzipReader struct {
	b      *bufio.Reader
	z      *gzip.Reader
	padded bool // zero bytes followed the last member
}

func newGzipReader(b *bufio.Reader) (io.ReadCloser, error) {
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &gzipReader{b: b, z: z}, nil
}

func (g *gzipReader) Close() error { return g.z.Close() }

func (g *gzipReader) Read(p []byte) (int, error) {
	for {
		n, err := g.z.Read(p)
		if n > 0 && err == io.EOF {
			err = nil // asked again, it says so again
		}
		if n > 0 || err != io.EOF {
			return n, err
		}
		if err := g.next(); err != nil {
			return 0, err
		}
	}
}

// next starts the next member.
func (g *gzipReader) next() error {
	first, err := g.b.Peek(1)
	if err != nil {
		return err // io.EOF: that was the last
	}
	if first[0] != 0 {
		if err := g.z.Reset(g.b); err != nil {
			return fmt.Errorf("after a gzip member: %w", err)
		}
		g.z.Multistream(false)
		return nil
	}
	g.padded = true
	for {
		c, err := g.b.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return errors.New("bytes that are not gzip follow the last gzip member")
		}
	}
}
