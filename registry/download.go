package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/redact"
)

// A File is a file behind an http(s) URL, and what the caller has of it.
type File struct {
	URL    *url.URL
	SHA256 string // that it must have, in hexadecimal; "" for any. The caller checks it

	Sink Sink    // takes the file
	Part Version // of what Sink has of it already; the zero Version for nothing

	// Begin is called with the version of the file before bytes of it come. An error of
	// it is that of Download.
	Begin func(Version) error

	// Have is the version that the caller has, with its Length, and Digest its content;
	// nil for none. Then the file is fetched only if it may be another.
	Have   *Version
	Digest digest.Digest
}

// ParseURL parses the URL of a file.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s is not a URL", redact.URL(text))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s is not an http or https URL", redact.URL(text))
	}
	u.Fragment = ""
	return u, nil
}

// smallFile is the size up to which a file without a strong ETag is fetched and compared,
// which costs no more than asking about it.
const smallFile = 64 << 10

// Download writes a file to its sink, and returns its version. If the file is still the
// one that the caller has, it reports false and leaves the sink empty. That is decided by
// a strong ETag, by a strong Last-Modified together with the length, or, for a small file,
// by its content; anything in a response that contradicts it has the file fetched.
//
// A download that was cut is resumed if the caller knows its digest, or the server can
// tell that the file is still the same.
func (c *Client) Download(ctx context.Context, f File) (v Version, changed bool, err error) {
	d := &download{File: f, client: c, version: f.Part}
	if d.login, err = c.credentials.ForURL(ctx, f.URL, false); err != nil {
		return Version{}, false, err
	}
	o := c.options
	if f.Have != nil {
		o.Attempts = min(o.Attempts, 2) // there is something to use instead
	}
	d.http = http.Client{Transport: &patient{next: c.files, insecure: true, options: o}, CheckRedirect: d.redirect}
	t := &transfer{sink: f.Sink, length: -1, request: d.request, accept: d.accept, resumable: d.resumable, same: d.continues}
	if f.Sink.Size() > 0 {
		t.length = f.Part.Length
	}
	for again := false; ; again = true {
		err := t.run(ctx, o)
		if errors.As(err, &cutError{}) {
			err = d.explain(ctx, err)
		}
		if err != nil {
			return Version{}, false, err
		}
		want := cmp.Or(f.SHA256, d.version.SHA256)
		if d.same || !t.pieced || again || want == "" || want == f.Sink.Digest().Encoded() {
			return d.version, !d.same, nil
		}
		if err := f.Sink.Reset(); err != nil { // the pieces do not belong together
			return Version{}, false, err
		}
	}
}

// A download is one call of Download.
type download struct {
	File
	client *Client
	http   http.Client
	login  *url.Userinfo
	asked  bool // for another login, after the server has refused the first

	version  Version // of what is in the sink, or of what is the same
	distrust bool    // of what the server says of the version that the caller has
	same     bool
}

// request is a method of transfer. It returns nil if the file has not changed.
func (d *download) request(ctx context.Context, header http.Header) (*http.Response, error) {
	conditional := false
	if header.Get("Range") != "" {
		if validator := d.version.validator(); validator != "" {
			header.Set("If-Range", validator)
		}
	} else if known := d.Have; known != nil && !d.distrust {
		if conditional = known.URL != "" && strong(known.ETag); conditional {
			header.Set("If-None-Match", known.ETag)
		} else if same, err := d.unchanged(ctx); same || err != nil {
			return nil, err
		}
	}
	resp, err := d.send(ctx, http.MethodGet, header)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	case http.StatusNotModified:
		defer resp.Body.Close()
		if !conditional {
			return nil, errors.New("the server says that nothing changed, without having been asked")
		}
		if d.Have.contradicts(resp) {
			d.distrust = true
			return d.request(ctx, http.Header{})
		}
		d.same, d.version = true, *d.Have
		return nil, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

// unchanged sends HEAD for a large file without a strong ETag. It does not send
// If-Modified-Since, since servers take any older time for unmodified.
func (d *download) unchanged(ctx context.Context) (bool, error) {
	if d.Have.Length <= smallFile || d.Have.validator() == "" {
		return false, nil
	}
	resp, err := d.send(ctx, http.MethodHead, http.Header{})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && d.Have.is(resp) {
		d.same, d.version = true, *d.Have
	}
	return d.same, nil
}

// send sends a request, and repeats it with another login if the first is rejected.
func (d *download) send(ctx context.Context, method string, header http.Header) (*http.Response, error) {
	u := *d.URL
	u.User = nil
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	// The file as it is: no transfer with an encoding of Go's choice.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "layerbuild")
	if d.login != nil {
		password, _ := d.login.Password()
		req.SetBasicAuth(d.login.Username(), password)
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, d.explain(ctx, err)
	}
	if resp.StatusCode != http.StatusUnauthorized || d.asked {
		return resp, nil
	}
	d.asked = true
	login, err := d.client.credentials.ForURL(ctx, d.URL, true)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if login == nil || d.login != nil && *login == *d.login {
		return resp, nil
	}
	d.login = login
	resp.Body.Close()
	return d.send(ctx, method, header)
}

// accept is a method of transfer. It returns nil if the file has not changed.
func (d *download) accept(resp *http.Response) (io.Reader, error) {
	now := versionOf(resp, time.Now())
	body := io.Reader(resp.Body)
	if resp.StatusCode == http.StatusPartialContent {
		// It need not tell again what the first one told: RFC 9110, 15.3.7.
		d.version.ETag = cmp.Or(d.version.ETag, now.ETag)
		d.version.LastModified = cmp.Or(d.version.LastModified, now.LastModified)
		d.version.SHA256 = cmp.Or(d.version.SHA256, now.SHA256)
	} else {
		d.version = now
		if d.Have != nil {
			var err error
			if body, err = d.compare(resp); err != nil || d.same {
				return nil, err
			}
		}
	}
	return body, d.Begin(d.version)
}

// compare sets d.same if a whole response is what the caller has, and returns its body.
// Only the content of a small file counts.
func (d *download) compare(resp *http.Response) (io.Reader, error) {
	size := d.Have.Length
	if resp.ContentLength >= 0 && resp.ContentLength != size {
		return resp.Body, nil
	}
	if size > smallFile {
		d.same = !d.distrust && d.Have.is(resp)
		return resp.Body, nil
	}
	begin, err := io.ReadAll(io.LimitReader(resp.Body, size+1))
	if err != nil {
		return nil, err
	}
	if d.same = digest.FromBytes(begin) == d.Digest; d.same {
		d.version.Length = size
	}
	return io.MultiReader(bytes.NewReader(begin), resp.Body), nil
}

// resumable is a method of transfer.
func (d *download) resumable() bool { return d.SHA256 != "" || d.version.Continues() }

// continues is a method of transfer, same.
func (d *download) continues(resp *http.Response) bool {
	return d.SHA256 != "" || !d.version.contradicts(resp)
}

// maxRedirects is as in curl's and Go's clients, roughly.
const maxRedirects = 10

// redirect decides whether to follow a redirect. It keeps the login and the URL from
// other hosts.
func (d *download) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &redirectError{fmt.Sprintf("more than %d redirects", maxRedirects)}
	}
	if first := via[0].URL; req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer") // the first URL may have a secret parameter
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme == "http" && d.SHA256 == "" {
		return &redirectError{fmt.Sprintf("it leads from https to %s, which anyone on the way can change: give its hash",
			redact.URL(req.URL.String()))}
	}
	return nil
}

type redirectError struct{ text string }

func (e *redirectError) Error() string { return e.text }

// refusal puts a status into words.
func refusal(resp *http.Response) *StatusError {
	e := &StatusError{resp.StatusCode, fmt.Sprintf("the server says %d", resp.StatusCode)}
	if text := http.StatusText(resp.StatusCode); text != "" {
		e.text += " " + text
	}
	if kind := e.Unwrap(); kind == ErrUnauthorized || kind == ErrForbidden {
		e.text += ": give a user and password in auth.json or netrc"
	}
	return e
}

// A failure is an error of a kind, in other words than the kind's.
type failure struct {
	kind error
	text string
}

func (e *failure) Error() string { return e.text }
func (e *failure) Unwrap() error { return e.kind }

// explain puts an error of net/http into words, without the URL.
func (d *download) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var (
		broken   cutError
		redirect *redirectError
		request  *url.Error
		cert     *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		host     x509.HostnameError
	)
	switch {
	case errors.As(err, &redirect):
		return redirect
	case errors.As(err, &cert), errors.As(err, &unknown), errors.As(err, &host):
		return fmt.Errorf("the server's certificate is not to be trusted: %s", oneLine(err))
	case errors.Is(err, errStalled):
		return &failure{ErrUnreachable, fmt.Sprintf("the server sent nothing for %s", d.client.options.Stall)}
	case errors.As(err, &broken):
		return &failure{ErrUnreachable, fmt.Sprintf("cut after %d bytes: %s", d.Sink.Size(), oneLine(broken.error))}
	case errors.As(err, &request):
		return &failure{ErrUnreachable, oneLine(request.Err)}
	}
	return err
}

func oneLine(err error) string {
	return redact.URL(strings.Join(strings.Fields(err.Error()), " "))
}
