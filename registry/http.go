package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// maxWait is the longest Retry-After that is obeyed; a longer one ends the attempts.
const maxWait = time.Minute

// parallel is how many idle connections to a host are kept.
const parallel = 4

// newTransport returns a transport that retries transient failures and gives up stalled
// connections. If insecure, it checks no certificate and allows plain http.
func newTransport(certs *tls.Config, insecure bool, o Options) http.RoundTripper {
	certs.InsecureSkipVerify = insecure
	return &patient{next: connections(certs, o), insecure: insecure, options: o}
}

// connections returns a transport that gives up stalled connections.
func connections(certs *tls.Config, o Options) http.RoundTripper {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: parallel,
		IdleConnTimeout:     30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		// A length and a range must be those of the file.
		DisableCompression: true,
		TLSClientConfig:    certs,
	}
	return &watchful{t, o.FirstByte, o.Stall}
}

// patient retries requests after transient failures. It refuses plain http unless that
// is allowed, also on redirects and to token services.
type patient struct {
	next     http.RoundTripper
	insecure bool
	options  Options
}

func (t *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !t.insecure && !loopback(req.URL.Hostname()) {
		return nil, fmt.Errorf("%w for %s", errPlain, req.URL.Host)
	}
	for attempt := 1; ; attempt++ {
		resp, err := t.next.RoundTrip(req)
		wait, again := retry(resp, err, t.options.Pause, attempt)
		if !again || attempt >= t.options.Attempts || !repeatable(req, resp) {
			return resp, err
		}
		if resp != nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
			resp.Body.Close()
		}
		if err := sleep(req.Context(), wait); err != nil {
			return nil, err
		}
		if req.GetBody != nil {
			req = req.Clone(req.Context())
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// repeatable reports whether a request may be sent again. A part of a blob may not,
// unless it was rejected outright, since the registry may have stored some of it.
func repeatable(req *http.Request, resp *http.Response) bool {
	if req.Body == nil || req.GetBody == nil {
		return req.Body == nil
	}
	return req.Method == http.MethodPut || resp != nil && resp.StatusCode == http.StatusTooManyRequests
}

var errPlain = errors.New("plain http is refused")

// loopback reports whether host is this machine, to which plain http is safe. Docker
// makes the same exception.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// retry reports whether to try again after a response or an error, and when.
func retry(resp *http.Response, err error, pause time.Duration, attempt int) (time.Duration, bool) {
	if err != nil {
		return backoff(pause, attempt), cut(err)
	}
	if !passing(resp.StatusCode) {
		return 0, false
	}
	wait := retryAfter(resp.Header, time.Now())
	if wait > maxWait {
		return 0, false
	}
	return max(wait, backoff(pause, attempt)), true
}

// passing reports whether a status stands for a transient failure.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

func backoff(pause time.Duration, attempt int) time.Duration {
	for range attempt - 1 {
		pause *= 3
	}
	return pause
}

// retryAfter returns the delay that a Retry-After header asks for, in seconds or as a
// date (RFC 9110, 10.2.3), or 0. It is never negative.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(v); err == nil {
		return time.Duration(max(0, min(seconds, 1e6))) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A cutError wraps the error of a body that ended too early.
type cutError struct{ error }

func (e cutError) Unwrap() error { return e.error }

var errStalled = errors.New("nothing came for too long")

// cut reports whether an established connection broke or stalled.
func cut(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return false
	}
	for _, e := range []error{errStalled, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	var n net.Error
	return errors.As(err, &n) && n.Timeout() && !errors.Is(err, context.DeadlineExceeded)
}

// watchful cancels a request whose response does not begin within firstByte, or that
// makes no progress in either direction for stall.
type watchful struct {
	next      http.RoundTripper
	firstByte time.Duration
	stall     time.Duration
}

func (t *watchful) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	limit := t.firstByte
	if req.Body != nil || req.Method == http.MethodPut { // the server may first check what was sent
		limit = max(limit, t.stall)
	}
	timer := time.AfterFunc(limit, func() { cancel(errStalled) })
	req = req.WithContext(ctx)
	if req.Body != nil {
		sent := &sentBody{ReadCloser: req.Body, timer: timer, limit: limit}
		defer sent.answered.Store(true)
		req.Body = sent
	}
	resp, err := t.next.RoundTrip(req)
	timer.Stop()
	if err == nil {
		resp.Body = &watchedBody{resp.Body, ctx, cancel, t.stall, timer}
		return resp, nil
	}
	if context.Cause(ctx) == errStalled {
		err = errStalled
	}
	cancel(nil)
	return nil, err
}

// A sentBody extends the deadline whenever the server accepts more of it.
type sentBody struct {
	io.ReadCloser
	timer    *time.Timer
	limit    time.Duration
	answered atomic.Bool
}

func (b *sentBody) Read(p []byte) (int, error) {
	if !b.answered.Load() {
		b.timer.Reset(b.limit)
	}
	return b.ReadCloser.Read(p)
}

// A watchedBody gives up on a body that brings nothing for too long. Its read errors
// are cutErrors.
type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	n, err := b.body.Read(p)
	b.timer.Stop() // what the reader does with it may take longer
	if err == nil || err == io.EOF {
		return n, err
	}
	if context.Cause(b.ctx) == errStalled {
		err = errStalled
	}
	return n, cutError{err}
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.body.Close()
}
