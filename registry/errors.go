package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// The kinds of failures.
var (
	ErrUnreachable     = errors.New("registry not reachable")
	ErrUnauthorized    = errors.New("access refused by the registry")
	ErrForbidden       = errors.New("access forbidden by the registry")
	ErrNotFound        = errors.New("not found in the registry")
	ErrTooManyRequests = errors.New("the registry allows no more requests for now")
	ErrServer          = errors.New("the registry has failed")

	// ErrCorrupt means that a registry sent content that does not match its digest or size.
	ErrCorrupt = errors.New("not what its digest says")
)

// A StatusError is an error status of a server. It wraps the kind of failure.
type StatusError struct {
	Status int // of HTTP
	text   string
}

func (e *StatusError) Error() string { return e.text }

// Unwrap returns the kind of the failure, or nil for a status that has none.
func (e *StatusError) Unwrap() error {
	switch {
	case e.Status == http.StatusUnauthorized:
		return ErrUnauthorized
	case e.Status == http.StatusForbidden:
		return ErrForbidden
	case e.Status == http.StatusNotFound:
		return ErrNotFound
	case e.Status == http.StatusTooManyRequests:
		return ErrTooManyRequests
	case e.Status >= 500:
		return ErrServer
	}
	return nil
}

// Passing reports whether a failure may be transient.
func Passing(err error) bool {
	var told *StatusError
	if errors.As(err, &told) {
		return passing(told.Status)
	}
	return errors.Is(err, ErrUnreachable)
}

// explain puts an error of go-containerregistry or net/http into words: without
// URLs, which may hold signatures, and with what to do. It returns nil for nil.
func (r *Repository) explain(ctx context.Context, err error) error {
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
	host, allow := r.name.RegistryStr(), r.client.options.Allow
	switch {
	case errors.As(err, &certificate): // before the answer of plain http, where that was tried too
		return fmt.Errorf("%w: %w: put the certificate of its authority into /etc/containers/certs.d/%s/ca.crt, or set %s",
			ErrUnreachable, certificate, host, allow)
	case errors.As(err, &answer):
		return r.explainAnswer(answer)
	case errors.As(err, &broken):
		return fmt.Errorf("%w: the connection was cut: %w", ErrUnreachable, broken.error)
	case !errors.As(err, &request):
		return err
	case strings.Contains(request.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("%w: %s speaks plain http: set %s if that is meant", ErrUnreachable, host, allow)
	case errors.Is(request, errPlain):
		return fmt.Errorf("%w: %w without %s", ErrUnreachable, request.Err, allow)
	}
	return fmt.Errorf("%w: %w: check the name, the network, and HTTPS_PROXY", ErrUnreachable, request.Err)
}

// explainAnswer puts an error status of a registry into words.
func (r *Repository) explainAnswer(e *transport.Error) *StatusError {
	said, host, from := said(e), r.name.RegistryStr(), r.login.source()
	answer := &StatusError{Status: e.StatusCode}
	kind := answer.Unwrap()
	switch {
	case kind == ErrNotFound:
		answer.text = fmt.Sprintf("%s%s: check the repository and the tag", kind, said)
	case kind == ErrTooManyRequests:
		answer.text = fmt.Sprintf("%s%s: log in, or try later", kind, said)
	case kind == ErrServer || kind == nil:
		answer.text = fmt.Sprintf("the registry answers %d %s%s", e.StatusCode, http.StatusText(e.StatusCode), said)
	case from == given:
		answer.text = fmt.Sprintf("%s%s: the given user name and password were rejected", kind, said)
	case from != "":
		answer.text = fmt.Sprintf("%s%s: the credentials in %s were rejected: `skopeo login %s` again", kind, said, from, host)
	default:
		answer.text = fmt.Sprintf("%s%s: there is no such repository, or it needs `skopeo login %s`", kind, said, host)
	}
	return answer
}

// said returns a registry's own words about an error, in brackets.
func said(e *transport.Error) string {
	if len(e.Errors) == 0 {
		return ""
	}
	return quoted(fmt.Sprintf("%s: %s", e.Errors[0].Code, e.Errors[0].Message))
}

// quoted puts a stranger's text into brackets, made fit to print. It returns "" for "".
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
