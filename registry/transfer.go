package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A Sink receives a file, part by part.
type Sink interface {
	Write(p []byte) (int, error)
	Size() int64           // of what it has received
	Digest() digest.Digest // of what it has received
	Reset() error          // forgets what it has received
}

// A transfer writes one file to a sink, over as many connections as it takes.
type transfer struct {
	sink   Sink
	length int64 // of the whole file; -1 while it is not known
	fixed  bool  // length is known from elsewhere; what a response says of it does not matter
	pieced bool  // sink is of several responses

	// request sends one with such a header. The response has the status 200, 206 or 416,
	// or is nil if there is nothing left to do.
	request func(ctx context.Context, header http.Header) (*http.Response, error)

	// accept looks at a response that has bytes for the sink, before they are written. It
	// returns the body to write, or nil if there is nothing left to do. It may be nil.
	accept func(resp *http.Response) (io.Reader, error)

	// resumable reports whether the rest of what sink has may be asked for, and same
	// whether a partial response is of the version that sink has a part of.
	resumable func() bool
	same      func(resp *http.Response) bool
}

// run writes what the sink lacks. It returns a cutError after too many cuts, and nil once
// the server has sent all it has, which need not be what the caller wants.
func (t *transfer) run(ctx context.Context, o Options) error {
	begun := t.sink.Size()
	return o.persist(ctx, func() (int64, error) {
		err := t.rest(ctx)
		return t.sink.Size() - begun, err
	})
}

// persist calls do again after each cut, as long as it comes further than before, and
// Attempts times without. A server that has begun to send may be away for a moment: it
// may be restarting.
func (o Options) persist(ctx context.Context, do func() (came int64, err error)) error {
	var furthest int64
	for attempt := 1; ; attempt++ {
		came, err := do()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.As(err, &cutError{}) && (furthest == 0 || !errors.Is(err, ErrUnreachable)) {
			return err
		}
		if came > furthest {
			furthest, attempt = came, 1
		}
		if attempt >= o.Attempts {
			return err
		}
		if err := sleep(ctx, backoff(o.Pause, attempt)); err != nil {
			return err
		}
	}
}

// rest makes one request for what the sink lacks, and appends what comes. It returns a
// cutError when another request may go on.
func (t *transfer) rest(ctx context.Context) error {
	header := http.Header{}
	switch have := t.sink.Size(); {
	case have == 0:
	case !t.resumable():
		if err := t.sink.Reset(); err != nil {
			return err
		}
	case t.fixed:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", have, t.length-1))
	default:
		header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := t.request(ctx, header)
	if err != nil || resp == nil {
		return err
	}
	defer resp.Body.Close()
	if err := t.begin(resp); err != nil {
		return err
	}
	body := io.Reader(resp.Body)
	if t.accept != nil {
		if body, err = t.accept(resp); err != nil || body == nil {
			return err
		}
	}
	before := t.sink.Size()
	if err := t.copy(body); err != nil {
		return err
	}
	switch size := t.sink.Size(); {
	case size < t.length && (!t.fixed || resp.ContentLength < 0 && size > before):
		return cutError{io.ErrUnexpectedEOF} // perhaps: without a length no one can tell
	case t.length >= 0 && size > t.length && !t.fixed:
		return t.restart("the server sent more than it said")
	}
	return nil
}

// begin prepares the sink for the body of a response.
func (t *transfer) begin(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		first, total, ok := contentRange(resp.Header.Get("Content-Range"))
		ok = ok && t.sink.Size() > 0 && first == t.sink.Size() && (total < 0 || t.length < 0 || total == t.length)
		if ok && t.same(resp) {
			t.pieced = true
			t.length = max(t.length, total)
			return nil
		}
		return t.restart("the server sent another part than was asked for")
	case http.StatusRequestedRangeNotSatisfiable:
		return t.restart("the server cannot go on where it was cut")
	}
	t.pieced = false
	if !t.fixed {
		t.length = resp.ContentLength
	}
	if t.sink.Size() == 0 {
		return nil
	}
	return t.sink.Reset() // the server knows no ranges, or has another version
}

// restart empties the sink, and returns a cutError so that the file is fetched again.
func (t *transfer) restart(why string) error {
	t.pieced = false
	if !t.fixed {
		t.length = -1
	}
	if err := t.sink.Reset(); err != nil {
		return err
	}
	return cutError{errors.New(why)}
}

// copy appends a body to the sink. If the length is fixed, one byte more is enough to
// know that it is too much.
func (t *transfer) copy(body io.Reader) error {
	if t.fixed {
		body = io.LimitReader(body, t.length+1-t.sink.Size())
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := t.sink.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// contentRange parses the header of a partial response, "bytes FIRST-LAST/TOTAL" (RFC
// 9110, 14.4). total is -1 where the server does not know it.
func contentRange(value string) (first, total int64, ok bool) {
	rest, ok := strings.CutPrefix(value, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, size, _ := strings.Cut(rest, "/")
	from, to, _ := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if err1 != nil || err2 != nil || first < 0 || last < first {
		return 0, 0, false
	}
	if size == "*" {
		return first, -1, true
	}
	total, err := strconv.ParseInt(size, 10, 64)
	return first, total, err == nil && total > last
}
