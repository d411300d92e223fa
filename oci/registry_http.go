package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// What kept an image from coming.
var (
	ErrNotFound     = errors.New("not found in the registry")
	ErrUnauthorized = errors.New("access refused by the registry")
	ErrUnreachable  = errors.New("registry not reachable")
)

// maxAttempts is how often in a row one request may fail.
const maxAttempts = 4

// maxWait is the longest time that a registry may ask us to wait.
const maxWait = time.Minute

// newTransport returns a transport that tries again. What is insecure needs no
// certificate.
func newTransport(certs *tls.Config, insecure bool, pause time.Duration) http.RoundTripper {
	certs.InsecureSkipVerify = insecure
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   parallelFetches,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		// A length and a range must be those of the blob.
		DisableCompression: true,
		TLSClientConfig:    certs,
	}
	return &patient{next: t, insecure: insecure, pause: pause}
}

// patient repeats requests that fail for the moment, and refuses plain http where
// that is not allowed, also for redirects and token services.
type patient struct {
	next     http.RoundTripper
	insecure bool
	pause    time.Duration
}

func (t *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !t.insecure && !loopback(req.URL.Hostname()) {
		return nil, fmt.Errorf("%w for %s", errPlain, req.URL.Host)
	}
	for attempt := 1; ; attempt++ {
		resp, err := t.next.RoundTrip(req)
		wait, again := retry(resp, err, t.pause, attempt)
		if !again || attempt >= maxAttempts || req.Body != nil {
			return resp, err
		}
		if resp != nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
			resp.Body.Close()
		}
		if err := sleep(req.Context(), wait); err != nil {
			return nil, err
		}
	}
}

var errPlain = errors.New("plain http is refused")

// loopback tells whether no one else can listen on the way, as docker does.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// retry tells whether an answer may be another one after some time.
func retry(resp *http.Response, err error, pause time.Duration, attempt int) (time.Duration, bool) {
	if err != nil {
		return backoff(pause, attempt), cut(err)
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return 0, false
	}
	wait := retryAfter(resp.Header, time.Now())
	if wait > maxWait {
		return 0, false
	}
	return max(wait, backoff(pause, attempt)), true
}

func backoff(pause time.Duration, attempt int) time.Duration {
	for range attempt - 1 {
		pause *= 3
	}
	return pause
}

// retryAfter reads the time that a server asks for, in seconds or as a date. RFC
// 9110, section 10.2.3.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(v); err == nil && seconds > 0 {
		return time.Duration(min(seconds, 1e6)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return at.Sub(now)
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

// cutError says that a body ended too early.
type cutError struct{ error }

func (e cutError) Unwrap() error { return e.error }

var errStalled = errors.New("nothing came for too long")

// cut tells whether a connection was there and has gone.
func cut(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return false
	}
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	var n net.Error
	return errors.As(err, &n) && n.Timeout() && !errors.Is(err, context.DeadlineExceeded)
}

// explain puts an error of go-containerregistry or net/http into words: without
// URLs, which may hold signatures, and with what to do. It is nil for nil.
func (s *session) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var (
		certificate *tls.CertificateVerificationError
		answer      *transport.Error
		broken      cutError
		request     *url.Error
	)
	switch {
	case errors.As(err, &certificate): // before the answer of plain http, where that was tried too
		return fmt.Errorf("%w: %w: put the certificate of its authority into /etc/containers/certs.d/%s/ca.crt, or set %s", ErrUnreachable, certificate, s.repo.RegistryStr(), s.allow)
	case errors.As(err, &answer):
		return s.explainAnswer(answer)
	case errors.As(err, &broken):
		return fmt.Errorf("%w: the connection was cut: %w", ErrUnreachable, broken.error)
	case !errors.As(err, &request):
		return err
	case strings.Contains(request.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("%w: %s speaks plain http: set %s if that is meant", ErrUnreachable, s.repo.RegistryStr(), s.allow)
	case errors.Is(request, errPlain):
		return fmt.Errorf("%w: %w without %s", ErrUnreachable, request.Err, s.allow)
	}
	return fmt.Errorf("%w: %w: check the name, the network, and HTTPS_PROXY", ErrUnreachable, request.Err)
}

// explainAnswer puts the refusal of a registry into words.
func (s *session) explainAnswer(e *transport.Error) error {
	said := said(e)
	switch e.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w%s: check the repository and the tag", ErrNotFound, said)
	case http.StatusUnauthorized, http.StatusForbidden:
		host := s.repo.RegistryStr()
		if s.login == "" {
			return fmt.Errorf("%w%s: there is no such repository, or it needs `skopeo login %s`", ErrUnauthorized, said, host)
		}
		return fmt.Errorf("%w%s: the credentials of %s do not do: `skopeo login %s` again", ErrUnauthorized, said, s.login, host)
	case http.StatusTooManyRequests:
		return fmt.Errorf("the registry allows no more requests for now%s: log in, or try later", said)
	}
	return fmt.Errorf("the registry answers %d %s%s", e.StatusCode, http.StatusText(e.StatusCode), said)
}

// said is what a registry says of an error.
func said(e *transport.Error) string {
	if len(e.Errors) == 0 {
		return ""
	}
	return quoted(fmt.Sprintf("%s: %s", e.Errors[0].Code, e.Errors[0].Message))
}

// quoted puts a stranger's text into brackets, made fit to print. It is "" for "".
func quoted(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if text == "" {
		return ""
	}
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return " (" + text + ")"
}
