package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
)

// endpoints are the places of one image as one source: what the first does not
// give the next is asked for. It is safe for concurrent use.
type endpoints struct {
	registry *Registry
	all      []endpoint

	mu   sync.Mutex
	from int // those before it could not be reached
}

// source returns the places that an image may be taken from.
func (r *Registry) source(image ImageRef) (*endpoints, error) {
	conf, err := r.conf()
	if err != nil {
		return nil, err
	}
	all, err := conf.endpoints(image)
	return &endpoints{registry: r, all: all}, err
}

// try does something at one place after the other until it succeeds. The error is
// that of the last, which is no mirror.
func (e *endpoints) try(ctx context.Context, do func(s *session, identifier string) error) error {
	e.mu.Lock()
	from := e.from
	e.mu.Unlock()
	var mirrors string
	for i, at := range e.all[from:] {
		s, err := e.registry.session(ctx, at.ref.Context(), at.insecure)
		if err == nil {
			err = do(s, at.ref.Identifier())
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if from+i == len(e.all)-1 {
			if mirrors != "" {
				err = fmt.Errorf("%w; before that%s", err, mirrors)
			}
			return err
		}
		mirrors += fmt.Sprintf(", the mirror %s: %s", at.ref.Context(), err)
		if errors.Is(err, ErrUnreachable) {
			e.mu.Lock()
			e.from = max(e.from, from+i+1)
			e.mu.Unlock()
		}
	}
	return nil
}

// document is a method of source. What one place gives is checked, so that another
// is asked when it is wrong.
func (e *endpoints) document(ctx context.Context, d Descriptor) (data []byte, err error) {
	err = e.try(ctx, func(s *session, _ string) (err error) {
		data, err = checkedDocument(ctx, s, d)
		return err
	})
	return data, err
}

// far is a method of source.
func (e *endpoints) far() bool { return true }

// fetch is a method of source. Where one place has cut a blob the next goes on.
// When it then is not what it should be, any of its parts may be wrong: it is fetched
// once more, from the beginning.
func (e *endpoints) fetch(ctx context.Context, d Descriptor, w *Writer) error {
	return e.try(ctx, func(s *session, _ string) error {
		for {
			begun := w.Size()
			err := s.fetch(ctx, d, w)
			if err == nil {
				err = compare(d, sumDigest(w.sum), w.size)
			}
			if !errors.Is(err, ErrCorrupt) {
				return err
			}
			if failed := w.Reset(); failed != nil || begun == 0 {
				return cmp.Or(failed, err)
			}
		}
	})
}
