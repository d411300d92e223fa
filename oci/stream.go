package oci

import (
	"context"
	"crypto/sha256"
	"io"

	"github.com/opencontainers/go-digest"
)

// A digestPipe carries a stream from one goroutine to another and digests it on
// a third, so that producing, digesting and consuming overlap. It holds at most
// pipeBlocks blocks of pipeBlock bytes, whatever the stream's size.
//
// The producer calls Write and then CloseWrite once; the consumer calls Read
// until an error. When either gives up it cancels ctx, which frees the others.
type digestPipe struct {
	ctx      context.Context
	free     chan []byte // empty blocks
	written  chan []byte // producer to digester
	digested chan []byte // digester to consumer
	filling  []byte      // the producer's
	reading  []byte      // the consumer's
	whole    []byte      // the block that reading is part of
	err      error       // of CloseWrite; set before written is closed
	sum      digest.Digest
}

const (
	pipeBlock  = 512 << 10
	pipeBlocks = 16
)

// newDigestPipe starts the digesting goroutine. It ends after CloseWrite or when
// ctx is cancelled.
func newDigestPipe(ctx context.Context) *digestPipe {
	p := &digestPipe{
		ctx:      ctx,
		free:     make(chan []byte, pipeBlocks),
		written:  make(chan []byte, pipeBlocks),
		digested: make(chan []byte, pipeBlocks),
	}
	for range pipeBlocks {
		p.free <- nil // made when it is needed
	}
	go p.digest()
	return p
}

func (p *digestPipe) digest() {
	defer close(p.digested)
	sum := sha256.New()
	for block := range p.written {
		sum.Write(block)
		p.digested <- block // never blocks: there are only pipeBlocks of them
	}
	p.sum = sumDigest(sum)
}

// Write hands bytes to the pipe. It waits while the consumer is behind.
func (p *digestPipe) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if p.filling == nil {
			if err := p.take(); err != nil {
				return n - len(b), err
			}
		}
		k := copy(p.filling[len(p.filling):cap(p.filling)], b)
		p.filling = p.filling[:len(p.filling)+k]
		b = b[k:]
		if len(p.filling) == cap(p.filling) {
			p.written <- p.filling
			p.filling = nil
		}
	}
	return n, nil
}

// ReadFrom reads r into the pipe's own blocks, so that nothing is copied.
func (p *digestPipe) ReadFrom(r io.Reader) (n int64, err error) {
	for {
		if p.filling == nil {
			if err := p.take(); err != nil {
				return n, err
			}
		}
		k, err := r.Read(p.filling[len(p.filling):cap(p.filling)])
		p.filling = p.filling[:len(p.filling)+k]
		n += int64(k)
		if len(p.filling) == cap(p.filling) {
			p.written <- p.filling
			p.filling = nil
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// take gets an empty block to fill.
func (p *digestPipe) take() error {
	select {
	case block := <-p.free:
		if block == nil {
			block = make([]byte, 0, pipeBlock)
		}
		p.filling = block[:0]
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// CloseWrite ends the stream. The consumer sees err, or io.EOF when it is nil.
func (p *digestPipe) CloseWrite(err error) {
	if len(p.filling) > 0 {
		p.written <- p.filling
		p.filling = nil
	}
	p.err = err
	close(p.written)
}

// Read returns the next bytes of the stream.
func (p *digestPipe) Read(b []byte) (int, error) {
	for len(p.reading) == 0 {
		if p.whole != nil {
			p.free <- p.whole
			p.whole = nil
		}
		select {
		case block, ok := <-p.digested:
			if !ok {
				if p.err != nil {
					return 0, p.err
				}
				return 0, io.EOF
			}
			p.whole, p.reading = block, block
		case <-p.ctx.Done():
			return 0, context.Cause(p.ctx)
		}
	}
	n := copy(b, p.reading)
	p.reading = p.reading[n:]
	return n, nil
}

// WriteTo hands the rest of the stream to w, block by block.
func (p *digestPipe) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if len(p.reading) == 0 {
			if _, err := p.Read(nil); err == io.EOF {
				return n, nil
			} else if err != nil {
				return n, err
			}
		}
		k, err := w.Write(p.reading)
		n += int64(k)
		p.reading = p.reading[k:]
		if err != nil {
			return n, err
		}
	}
}

// result returns the stream's digest. It is known once the consumer has seen io.EOF,
// not before and not after an error.
func (p *digestPipe) result() digest.Digest { return p.sum }
