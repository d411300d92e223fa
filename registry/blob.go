package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob writes what sink lacks of a blob. A part that sink has is continued; if the whole
// then is wrong, it is fetched once more from the beginning. Blob fails with ErrCorrupt,
// and empties sink, if the content is not what d says. After other errors sink keeps what
// has come, for another attempt.
func (r *Repository) Blob(ctx context.Context, d ispec.Descriptor, sink Sink) error {
	for {
		begun := sink.Size()
		err := r.fetch(ctx, d, sink)
		if err == nil {
			err = compare(d, sink.Digest(), sink.Size())
		}
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		if failed := sink.Reset(); failed != nil || begun == 0 {
			return cmp.Or(failed, err)
		}
	}
}

// fetch appends to sink what it lacks.
func (r *Repository) fetch(ctx context.Context, d ispec.Descriptor, sink Sink) error {
	if sink.Size() >= d.Size && d.Size > 0 {
		return nil
	}
	t := &transfer{sink: sink, length: d.Size, fixed: true}
	t.resumable = func() bool { return true } // since the digest is checked
	t.same = func(*http.Response) bool { return true }
	t.request = func(ctx context.Context, header http.Header) (*http.Response, error) {
		return r.request(ctx, http.MethodGet, "blobs/"+d.Digest.String(), header,
			http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	}
	err := t.run(ctx, r.client.options)
	if errors.As(err, &cutError{}) {
		err = r.explain(ctx, err)
	}
	return err
}

// compare returns an ErrCorrupt when content is not what a descriptor says.
func compare(want ispec.Descriptor, got digest.Digest, size int64) error {
	switch {
	case size != want.Size:
		return fmt.Errorf("the registry gives %d bytes for %s, its descriptor says %d: %w", size, want.Digest, want.Size, ErrCorrupt)
	case got != want.Digest:
		return fmt.Errorf("the registry gives %s for %s: %w", got, want.Digest, ErrCorrupt)
	}
	return nil
}
