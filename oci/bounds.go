package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"

	"github.com/docker/go-units"
)

// Bounds are what a layer of a stranger's may come to when it is unpacked: a few
// kilobytes can be made to fill any disk. 0 is no bound.
type Bounds struct {
	Bytes int64 // of the tar, and of the files in it; those of a sparse file count whole
	Files int64
	Ratio int64 // of bytes to those of the blob, from ratioFrom bytes on
}

// ratioFrom lets small layers of zeros be what they are.
const ratioFrom = 1 << 30

// DefaultBounds let any honest layer pass: gzip cannot even exceed the ratio.
var DefaultBounds = Bounds{Bytes: 100_000_000_000, Files: 10_000_000, Ratio: 1032}

// ErrBounds says that something is more than Bounds allow.
var ErrBounds = errors.New("more than a layer may have")

// a tally counts what one layer comes to.
type tally struct {
	Bounds
	blob  int64 // bytes
	bytes int64 // of files
	files int64
}

// entry counts an entry of the tar.
func (t *tally) entry(hdr *tar.Header) error {
	if t.files++; t.Files > 0 && t.files > t.Files {
		return fmt.Errorf("it has more than %d files: %w (--max-layer-files)", t.Files, ErrBounds)
	}
	if t.bytes > 1<<62-hdr.Size {
		return fmt.Errorf("%q is %d bytes long: %w", hdr.Name, hdr.Size, ErrBounds)
	}
	t.bytes += hdr.Size
	return t.check(t.bytes)
}

// check tells whether the layer may come to n bytes.
func (t *tally) check(n int64) error {
	switch {
	case t.Bytes > 0 && n > t.Bytes:
		return fmt.Errorf("it is larger than %s when it is unpacked: %w (--max-layer-size)", units.HumanSize(float64(t.Bytes)), ErrBounds)
	case t.Ratio > 0 && n > ratioFrom && n/t.Ratio > t.blob:
		return fmt.Errorf("its %s are more than %d times that when they are unpacked: %w (--max-layer-ratio)", units.HumanSize(float64(t.blob)), t.Ratio, ErrBounds)
	}
	return nil
}

// reader counts what is read of an uncompressed tar.
func (t *tally) reader(r io.Reader) io.Reader { return &talliedReader{r: r, tally: t} }

type talliedReader struct {
	r     io.Reader
	n     int64
	tally *tally
}

func (t *talliedReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	if over := t.tally.check(t.n); over != nil {
		return n, over
	}
	return n, err
}
