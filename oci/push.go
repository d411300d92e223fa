package oci

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/layerbuild/layerbuild/registry"
)

// parallelUploads bounds how many blobs of one image are sent at a time.
const parallelUploads = 4

// Push makes ref stand for an image of the layout, and reports whether it did so
// before. Blobs that the repository has are not sent again; those that another one of
// its registry may have, as far as the client knows or because it holds one of bases,
// are mounted from there. The tag is written last, so that it never stands for something
// incomplete.
func (l *Layout) Push(
	ctx context.Context, c *registry.Client, manifest Descriptor, ref registry.Ref, bases ...string,
) (there bool, err error) {
	to, tag, err := c.Repository(ref, registry.Push)
	if err != nil {
		return false, err
	}
	if there, err = l.push(ctx, to, tag, manifest, bases); err != nil {
		return false, fmt.Errorf("%s: %w", ref.Name, err)
	}
	return there, nil
}

func (l *Layout) push(
	ctx context.Context, to *registry.Repository, tag string, manifest Descriptor, bases []string,
) (there bool, err error) {
	text, err := l.ReadDocument(manifest)
	if err != nil {
		return false, err
	}
	m, err := readManifest(text)
	if err != nil {
		return false, err
	}
	if _, err := l.ReadDocument(m.Config); err != nil {
		return false, err
	}
	if err := l.hasAll(m.Layers); err != nil {
		return false, err
	}
	blobs := distinct(append(m.Layers, m.Config))
	switch head, err := to.Head(ctx, tag); {
	case err == nil && head.Digest == manifest.Digest:
		to.Remember(blobs...)
		return true, nil
	case errors.Is(err, registry.ErrUnreachable), errors.Is(err, registry.ErrUnauthorized):
		return false, err
	}
	g, sending := errgroup.WithContext(ctx)
	g.SetLimit(parallelUploads)
	for _, d := range blobs {
		g.Go(func() error {
			_, err := to.Upload(sending, d, func() (io.ReadCloser, error) { return l.openToSend(d) }, bases...)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	return false, to.Put(ctx, tag, manifest.MediaType, text)
}

// openToSend opens a blob that is checked while it is read.
func (l *Layout) openToSend(d Descriptor) (io.ReadCloser, error) {
	f, err := l.Open(d)
	if err != nil {
		return nil, err
	}
	return &sentBlob{verified(f, d), l, d}, nil
}

// A sentBlob puts its blob aside if that turns out to be damaged.
type sentBlob struct {
	io.ReadCloser
	layout *Layout
	d      Descriptor
}

func (s *sentBlob) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if errors.Is(err, ErrCorrupt) {
		err = errors.Join(err, s.layout.PutAside(s.d.Digest))
	}
	return n, err
}
