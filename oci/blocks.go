package oci

import (
	"bytes"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Sizes of the blocks that are compressed on their own, to a frame each with zstd
// (RFC 8878, 3.1: frames may follow each other): fixed, since they decide bytes.
const (
	gzipBlock = 1 << 20
	zstdBlock = 4 << 20
)

// gzipTail is how much of the block before a gzip block may be referred to.
const gzipTail = 16 << 10

// mostAtOnce bounds how many bytes of a stream are compressed at a time, and so the
// memory.
const mostAtOnce = 32 << 20

// blockSize is what one core compresses at a time.
func (c Compression) blockSize() int {
	if c == Zstd {
		return zstdBlock
	}
	return gzipBlock
}

// A blockWriter compresses a stream in blocks beside each other, and writes them in
// order. Its bytes depend on the compression, the level and what is written, never
// on the number of cores or on how writes are cut.
//
// Writes go into the blocks themselves. Each that is full is digested and compressed
// while the next one is filled: a Write waits when all blocks are full.
type blockWriter struct {
	w           io.Writer
	compression Compression
	level       int
	cores       cores
	sum         hash.Hash // of what is written; nil if nobody wants it
	size        int64     // of what is written, known after Close

	filling *block
	free    chan *block
	full    chan *block   // in order
	begun   chan *block   // in order, compressed or about to be
	ended   chan struct{} // closed when all is written
	crc     uint32        // of what is written, for gzip
	failed  atomic.Bool   // err is set
	err     error
}

type block struct {
	in, out []byte
	before  []byte        // the end of the block before it, for gzip
	last    bool          // the only one that may be short
	done    chan struct{} // closed when out is made of in
}

// newBlockWriter starts goroutines, which end with Close. sum, if not nil, digests
// the stream on one of them: it may be asked after Close.
func newBlockWriter(w io.Writer, c Compression, level int, cores cores, sum hash.Hash) *blockWriter {
	// One is filled, one digested and one written beside those that are compressed.
	n := min(cap(cores), mostAtOnce/c.blockSize()) + 3
	z := &blockWriter{
		w: w, compression: c, level: level, cores: cores, sum: sum, filling: &block{},
		free: make(chan *block, n), full: make(chan *block, n), begun: make(chan *block, n), ended: make(chan struct{}),
	}
	for range n - 1 {
		z.free <- &block{}
	}
	go z.compress()
	go z.write()
	return z
}

// Write is a method of io.Writer.
func (z *blockWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := copy(z.room(len(p)), p)
		p = p[k:]
		if err := z.filled(k); err != nil {
			return n - len(p), err
		}
	}
	return n, nil
}

// readSome reads once from r, at most so many bytes, without a copy in between.
func (z *blockWriter) readSome(r io.Reader, most int64) (int, error) {
	n, err := r.Read(z.room(int(min(most, mostRead))))
	if full := z.filled(n); full != nil {
		err = full
	}
	return n, err
}

const mostRead = 256 << 10

// room is where the filling block goes on, at most n bytes. Blocks grow as they are
// filled, since most layers are small.
func (z *blockWriter) room(n int) []byte {
	in := z.filling.in
	left := z.compression.blockSize() - len(in)
	n = min(n, left)
	if cap(in)-len(in) < n {
		in = slices.Grow(in, min(max(n, len(in)), left))
	}
	z.filling.in = in
	return in[len(in) : len(in)+n]
}

// filled adds n bytes of the room to the block. A full one goes its way.
func (z *blockWriter) filled(n int) error {
	in := z.filling.in
	z.filling.in = in[:len(in)+n]
	if len(z.filling.in) < z.compression.blockSize() {
		return nil
	}
	if z.failed.Load() {
		return z.err
	}
	z.full <- z.filling
	z.filling = <-z.free
	z.filling.in = z.filling.in[:0]
	return nil
}

// compress has blocks compressed until there are no more, and digests them
// meanwhile.
func (z *blockWriter) compress() {
	defer close(z.begun)
	var tail []byte
	for b := range z.full {
		b.done = make(chan struct{})
		if z.compression == Gzip {
			b.before = append(b.before[:0], tail...)
			tail = append(tail[:0], b.in[max(0, len(b.in)-gzipTail):]...)
		}
		in := b.in
		go func() {
			defer close(b.done)
			core := <-z.cores
			b.out = core.compress(b, z.compression, z.level)
			z.cores <- core
		}()
		z.size += int64(len(in))
		if z.sum != nil {
			z.sum.Write(in)
		}
		if z.compression == Gzip {
			z.crc = crc32.Update(z.crc, crc32.IEEETable, in)
		}
		z.begun <- b
	}
}

// write writes blocks until there are no more.
func (z *blockWriter) write() {
	defer close(z.ended)
	if z.compression == Gzip {
		z.put(gzipHeader(z.level))
	}
	for b := range z.begun {
		<-b.done
		z.put(b.out)
		z.free <- b
	}
	if z.compression == Gzip {
		z.put(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, z.crc), uint32(z.size)))
	}
}

// put writes bytes, but nothing after the first error.
func (z *blockWriter) put(p []byte) {
	if z.err == nil {
		_, z.err = z.w.Write(p)
		z.failed.Store(z.err != nil)
	}
}

// Close writes what is left: a last block, be it empty.
func (z *blockWriter) Close() error {
	z.filling.last = true
	z.full <- z.filling
	close(z.full)
	<-z.ended
	return z.err
}

// gzipHeader is that of pgzip: without a name, and with the time that pgzip makes
// of none (RFC 1952, 2.3).
func gzipHeader(level int) []byte {
	extra := map[int]byte{flate.BestSpeed: 4, flate.BestCompression: 2}[level]
	return []byte{magicGzip[0], magicGzip[1], 8, 0, 0x00, 0x09, 0x6e, 0x88, extra, 255}
}

// cores are what compresses blocks: one for each core of the machine, shared by all
// that is packed at a time and kept for what is packed next, since an encoder takes
// megabytes.
type cores chan *core

func newCores(n int) cores {
	all := make(cores, n)
	for range n {
		all <- &core{gzip: map[int]*flate.Writer{}, zstd: map[int]*zstd.Encoder{}}
	}
	return all
}

// A core has an encoder for each level that it was asked for.
type core struct {
	gzip map[int]*flate.Writer
	zstd map[int]*zstd.Encoder
}

// compress returns what a block is compressed to: in b.out if there is room, or the
// block itself.
func (c *core) compress(b *block, compression Compression, level int) []byte {
	switch compression {
	case Gzip:
		return c.deflate(b, level)
	case Zstd:
		return c.zstdAt(level).EncodeAll(b.in, b.out[:0])
	}
	return b.in
}

// deflate makes of a block what pgzip makes of it. A level was checked before, and
// writing to memory does not fail.
func (c *core) deflate(b *block, level int) []byte {
	z := c.gzip[level]
	if z == nil {
		z, _ = flate.NewWriter(nil, level)
		c.gzip[level] = z
	}
	out := bytes.NewBuffer(b.out[:0])
	z.ResetDict(out, b.before)
	_, _ = z.Write(b.in)
	_ = z.Flush()
	if b.last {
		_ = z.Close()
	}
	return out.Bytes()
}

// zstdAt is the encoder of a level. No frame is larger than a block, so neither is
// its window.
func (c *core) zstdAt(level int) *zstd.Encoder {
	z := c.zstd[level]
	if z == nil {
		z, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithWindowSize(zstdBlock),
			zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true))
		c.zstd[level] = z
	}
	return z
}
