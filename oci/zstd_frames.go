package oci

import (
	"io"
	"runtime"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// zstdFrame is how many bytes one core compresses at a time, to a frame of their own
// (RFC 8878, 3.1: frames may follow each other): fixed, since it decides bytes.
const zstdFrame = 4 << 20

// mostFrames bounds how many frames are compressed at a time, and so the memory.
const mostFrames = 4

// frameWriter compresses frames beside each other, and writes them in order.
type frameWriter struct {
	w       io.Writer
	encoder *zstd.Encoder
	filling *frame
	begun   chan *frame // in order
	free    chan *frame
	failed  atomic.Bool   // err is set
	ended   chan struct{} // closed when all is written
	err     error
}

type frame struct {
	in, out []byte
	done    chan struct{} // closed when out is made of in
}

// newFrameWriter starts a goroutine, which ends with Close.
func newFrameWriter(w io.Writer, level int) (*frameWriter, error) {
	n := min(runtime.GOMAXPROCS(0), mostFrames)
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(n), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, err
	}
	// One is filled and one is written beside those that are compressed.
	z := &frameWriter{w: w, encoder: encoder, filling: &frame{}, begun: make(chan *frame, n+2), free: make(chan *frame, n+2), ended: make(chan struct{})}
	for range n + 1 {
		z.free <- &frame{}
	}
	go z.write()
	return z, nil
}

// write writes frames until there are no more.
func (z *frameWriter) write() {
	defer close(z.ended)
	for f := range z.begun {
		<-f.done
		if z.err == nil {
			_, z.err = z.w.Write(f.out)
			z.failed.Store(z.err != nil)
		}
		z.free <- f
	}
}

// Write is a method of io.Writer.
func (z *frameWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		f := z.filling
		k := min(len(p), zstdFrame-len(f.in))
		f.in = append(f.in, p[:k]...)
		p = p[k:]
		if len(f.in) < zstdFrame {
			break
		}
		if z.failed.Load() {
			return n - len(p), z.err
		}
		z.compress()
		z.filling = <-z.free
		z.filling.in = z.filling.in[:0]
	}
	return n, nil
}

// compress makes a frame of what has come.
func (z *frameWriter) compress() {
	f := z.filling
	f.done = make(chan struct{})
	z.begun <- f
	go func() {
		defer close(f.done)
		f.out = z.encoder.EncodeAll(f.in, f.out[:0])
	}()
}

// Close writes what is left. A stream without a byte is one empty frame.
func (z *frameWriter) Close() error {
	z.compress()
	close(z.begun)
	<-z.ended
	return z.err
}
