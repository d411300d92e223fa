package imports

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/statedir"
)

// FetchOptions of a download.
type FetchOptions struct {
	// Hash is the sha256 that the file must have, as 64 hexadecimal digits; "" for
	// any. A file that is here already with this hash is used without asking.
	Hash string

	Offline  bool                    // use what is here; ask no server
	MaxSize  int64                   // bytes; larger files are refused; 0 for no limit
	Progress func(done, total int64) // of bytes; total is -1 while it is not known

	// Begin, when set, is called before the first byte of a file is taken; an error
	// of it is that of Fetch, and nothing is taken.
	Begin func(total int64) error

	Credentials registry.Credentials // for servers that ask for some; those in the URL come first

	// Stall is for how long a server may send nothing; a minute by default.
	Stall time.Duration

	// Transport carries the requests; by default one with the proxies that the
	// environment names (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
	Transport http.RoundTripper
}

// A Download is a file that came from a URL. It is never changed.
type Download struct {
	Path               string
	Digest             digest.Digest
	Size               int64
	ETag, LastModified string // what the server says of this version

	// Notice, unless empty, is what to tell the user: that the server could not be
	// asked whether there is a newer file.
	Notice string
}

// validators is what is kept of a URL: downloads/urls/HASH.json. The hash is of
// the URL without user and password.
type validators struct {
	Version      int           `json:"version"`
	URL          string        `json:"url"` // redacted
	Digest       digest.Digest `json:"digest"`
	Size         int64         `json:"size"`
	ETag         string        `json:"etag,omitempty"`
	LastModified string        `json:"lastModified,omitempty"`
	Fetched      time.Time     `json:"fetched"`
}

// Fetch returns the file at an http(s) URL. It is kept by content; if it is here
// from an earlier Fetch, the server is asked whether it changed (ETag,
// Last-Modified), and if the server cannot be reached, it is used with a Notice.
//
// A connection that is cut is resumed where it was, also by a later Fetch, if the
// server can tell that the file is still the same. Failures that may pass are tried
// again a few times.
// No user name, password or secret parameter of the URL is in any error.
func (s *Store) Fetch(ctx context.Context, rawURL string, o FetchOptions) (Download, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return Download{}, err
	}
	o.Hash = strings.ToLower(o.Hash)
	if o.Hash != "" && !isHash(o.Hash) {
		return Download{}, fmt.Errorf("%s: its hash %q is not 64 hexadecimal digits", registry.Redact(rawURL), o.Hash)
	}
	f := &fetch{Store: s, FetchOptions: o, url: u, name: registry.Redact(rawURL)}
	if f.Stall == 0 {
		f.Stall = time.Minute
	}
	if f.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		defer t.CloseIdleConnections()
		f.Transport = t
	}
	return f.run(ctx)
}

func parseURL(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("%s is not a URL", registry.Redact(rawURL))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s is not an http or https URL", registry.Redact(rawURL))
	}
	u.Fragment = ""
	return u, nil
}

// A fetch is one call of Fetch.
type fetch struct {
	*Store
	FetchOptions
	url  *url.URL
	name string // the URL, redacted
}

func (f *fetch) run(ctx context.Context) (Download, error) {
	if f.Hash != "" {
		if d, ok := f.have(ctx, validators{Digest: digest.NewDigestFromEncoded(digest.SHA256, f.Hash)}); ok {
			return d, nil
		}
	}
	asking, err := locks.Take(ctx, f.partPath()+".lock", "has been downloading "+f.name)
	if err != nil {
		return Download{}, err
	}
	defer asking.Unlock()

	var known Download
	v, has := readValidators(f.validatorsPath())
	if has {
		known, has = f.have(ctx, v)
	}
	if f.Offline {
		if !has {
			return Download{}, fmt.Errorf("%s was not downloaded yet, and --offline forbids it", f.name)
		}
		return f.expect(known)
	}
	d, err := f.get(ctx, v, known, has)
	if err != nil {
		return Download{}, fmt.Errorf("%s: %w", f.name, err)
	}
	return f.expect(d)
}

// expect refuses a file that is not the expected one.
func (f *fetch) expect(d Download) (Download, error) {
	if f.Hash != "" && d.Digest.Encoded() != f.Hash {
		return Download{}, f.mismatch(d.Digest.Encoded())
	}
	return d, nil
}

func (f *fetch) mismatch(got string) error {
	return fmt.Errorf("%s has the sha256 %s, not %s as its hash says", f.name, got, f.Hash)
}

// get asks the server, again after failures that may pass.
func (f *fetch) get(ctx context.Context, v validators, known Download, has bool) (_ Download, err error) {
	login, err := f.Credentials.ForURL(ctx, f.url, false)
	if err != nil {
		return Download{}, err
	}
	part, err := f.openPart()
	if err != nil {
		return Download{}, err
	}
	t := &transfer{fetch: f, login: login, part: part, sum: sha256.New(), total: -1}
	defer func() { err = errors.Join(err, t.leave()) }()
	if err := t.takeUp(ctx); err != nil {
		return Download{}, err
	}
	if has {
		t.ask = v
	}
	for try := 0; ; try++ {
		d, err := t.try(ctx)
		switch {
		case err == nil && d == nil:
			return known, nil
		case err == nil:
			return *d, nil
		case ctx.Err() != nil:
			return Download{}, context.Cause(ctx)
		}
		var passing *passingError
		if !errors.As(err, &passing) {
			return Download{}, err
		}
		if has && (try > 0 || passing.unreachable) {
			known.Notice = fmt.Sprintf("%s: %v: using what was downloaded on %s", f.name, err, v.Fetched.Format("2006-01-02 15:04"))
			return known, nil
		}
		if try == 4 {
			return Download{}, fmt.Errorf("%w (tried %d times)", err, try+1)
		}
		wait := max(f.retryWait<<try, min(passing.after, time.Minute))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return Download{}, context.Cause(ctx)
		}
	}
}

// lastModified returns the header's Last-Modified if it can tell versions of a
// file apart. It has whole seconds: a file that was young when it was sent may
// have changed since and kept it. RFC 9110, 8.8.2.2, with the minute that RFC 7232
// asked for.
func lastModified(h http.Header) string {
	modified, err1 := http.ParseTime(h.Get("Last-Modified"))
	sent, err2 := http.ParseTime(h.Get("Date"))
	if err1 != nil || err2 != nil || sent.Sub(modified) < time.Minute {
		return ""
	}
	return h.Get("Last-Modified")
}

// A passingError is a failure that may be gone the next time.
type passingError struct {
	err         error
	after       time.Duration // when the server wants to be asked again
	unreachable bool          // no connection came about
}

func (e *passingError) Error() string { return e.err.Error() }
func (e *passingError) Unwrap() error { return e.err }

// A transfer is a file that is being downloaded, over several connections if
// one is cut.
type transfer struct {
	*fetch
	login *url.Userinfo
	ask   validators // of what is here, if the server is to compare
	part  *os.File
	sum   hash.Hash
	done  int64 // bytes in part
	noted int64 // of them in its note
	total int64 // -1 while it is not known

	pieced bool // part is of several responses
	spent  bool // part is of no use any more

	begun              bool   // Begin was called
	etag, lastModified string // of what is in part
	says               string // X-Checksum-Sha256 of it
}

// try makes one request. It returns nil without an error if the file that is
// here is the current one.
func (t *transfer) try(ctx context.Context) (*Download, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := fmt.Errorf("the server sent nothing for %s", t.Stall)
	watch := time.AfterFunc(t.Stall, func() { cancel(stalled) })
	defer watch.Stop()

	resp, err := t.send(ctx)
	if err != nil {
		if context.Cause(ctx) == stalled {
			err = stalled
		}
		return nil, requestError(err)
	}
	defer resp.Body.Close()
	if done, err := t.begin(resp); done || err != nil {
		return nil, err
	}
	if err := t.receive(resp.Body, func() { watch.Reset(t.Stall) }); err != nil {
		if context.Cause(ctx) == stalled {
			err = &passingError{err: stalled}
		}
		return nil, err
	}
	d := digest.NewDigest(digest.SHA256, t.sum)
	err = t.check(d)
	switch {
	case err == nil:
		return t.finish(d)
	case t.pieced: // and perhaps of pieces that do not belong together
		return nil, errors.Join(t.restart(-1), &passingError{err: err})
	}
	t.spent = true
	return nil, err
}

// send makes the request: for the rest of what is in part, or for what is newer
// than what is here.
func (t *transfer) send(ctx context.Context) (*http.Response, error) {
	u := *t.url
	u.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// The file as it is: no transfer with an encoding of Go's choice.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "layerbuild")
	if t.login != nil {
		password, _ := t.login.Password()
		req.SetBasicAuth(t.login.Username(), password)
	}
	switch {
	case t.resumable():
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", t.done))
		if same := t.validator(); same != "" {
			req.Header.Set("If-Range", same)
		}
	case t.ask.ETag != "":
		req.Header.Set("If-None-Match", t.ask.ETag)
	case t.ask.LastModified != "":
		req.Header.Set("If-Modified-Since", t.ask.LastModified)
	}
	client := http.Client{Transport: t.Transport, CheckRedirect: t.redirect}
	return client.Do(req)
}

// resumable tells whether the rest can be asked for: either the server can tell that
// the file is still the same, or its hash will.
func (t *transfer) resumable() bool {
	return t.done > 0 && (t.validator() != "" || t.Hash != "")
}

// validator is what the rest can be asked for with (RFC 9110, 13.1.5: a strong one),
// or "".
func (t *transfer) validator() string {
	if t.etag != "" && !strings.HasPrefix(t.etag, "W/") {
		return t.etag
	}
	return t.lastModified
}

// maxRedirects is as in curl's and Go's clients, roughly.
const maxRedirects = 10

// redirect decides whether to follow one. What the first URL's host may know is
// not told to another.
func (t *transfer) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &redirectError{fmt.Sprintf("more than %d redirects", maxRedirects)}
	}
	if first := via[0].URL; req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer") // the first URL may have a secret parameter
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme == "http" && t.Hash == "" {
		return &redirectError{fmt.Sprintf("it leads from https to %s, which anyone on the way can change: give its hash", registry.Redact(req.URL.String()))}
	}
	return nil
}

type redirectError struct{ text string }

func (e *redirectError) Error() string { return e.text }

// requestError says why there is no response, without the URL.
func requestError(err error) error {
	var asked *url.Error
	if errors.As(err, &asked) {
		err = asked.Err
	}
	var redirect *redirectError
	if errors.As(err, &redirect) {
		return redirect
	}
	var (
		cert      *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
	)
	if errors.As(err, &cert) || errors.As(err, &authority) || errors.As(err, &host) {
		return fmt.Errorf("the server's certificate is not to be trusted: %s", oneLine(err))
	}
	return &passingError{err: errors.New(oneLine(err)), unreachable: true}
}

func oneLine(err error) string {
	return registry.Redact(strings.Join(strings.Fields(err.Error()), " "))
}

// begin looks at the head of a response: done if there is nothing to receive.
func (t *transfer) begin(resp *http.Response) (done bool, err error) {
	switch resp.StatusCode {
	case http.StatusOK:
		err = t.restart(resp.ContentLength)
	case http.StatusPartialContent:
		if !t.continues(resp) {
			return false, errors.Join(t.restart(-1), &passingError{err: errors.New("the server sent another part than was asked for")})
		}
		t.pieced = true
	case http.StatusNotModified:
		if t.ask.Digest == "" || t.done > 0 {
			return false, errors.New("the server says that nothing changed, without having been asked")
		}
		return true, nil
	case http.StatusRequestedRangeNotSatisfiable:
		return false, errors.Join(t.restart(-1), &passingError{err: errors.New("the server cannot resume")})
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false, &passingError{err: errors.New("the server says " + statusOf(resp)), after: retryAfter(resp)}
	case http.StatusUnauthorized, http.StatusForbidden:
		return false, fmt.Errorf("the server says %s: give a user and password in auth.json or netrc", statusOf(resp))
	default:
		return false, fmt.Errorf("the server says %s", statusOf(resp))
	}
	if err != nil {
		return false, err
	}
	// A partial response need not tell again what the first one told: RFC 9110, 15.3.7.
	t.etag = cmp.Or(resp.Header.Get("ETag"), t.etag)
	t.lastModified = cmp.Or(lastModified(resp.Header), t.lastModified)
	if says := strings.ToLower(resp.Header.Get("X-Checksum-Sha256")); isHash(says) {
		t.says = says
	}
	if t.Hash != "" && t.says != "" && t.says != t.Hash {
		return false, t.mismatch(t.says)
	}
	if err := t.checkSize(max(t.total, 0)); err != nil || t.Begin == nil || t.begun {
		return false, err
	}
	t.begun = true
	return false, t.Begin(t.total)
}

// statusOf is a response's status as RFC 9110 has it, on one line.
func statusOf(resp *http.Response) string {
	if text := http.StatusText(resp.StatusCode); text != "" {
		return fmt.Sprintf("%d %s", resp.StatusCode, text)
	}
	return strconv.Itoa(resp.StatusCode)
}

// continues reports whether a partial response is the rest of what is here.
func (t *transfer) continues(resp *http.Response) bool {
	var first, last int64
	var size string
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%s", &first, &last, &size); err != nil {
		return false
	}
	total, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		total = t.total // "*": not known
	}
	ok := t.done > 0 && first == t.done && (t.total < 0 || total == t.total)
	for name, want := range map[string]string{"ETag": t.etag, "Last-Modified": t.lastModified} {
		if got := resp.Header.Get(name); got != "" && want != "" && got != want {
			ok = false
		}
	}
	t.total = total
	return ok
}

// restart forgets what was received.
func (t *transfer) restart(total int64) error {
	if err := t.forget(); err != nil {
		return err
	}
	t.sum.Reset()
	t.done, t.total, t.pieced = 0, total, false
	t.etag, t.lastModified, t.says = "", "", ""
	if _, err := t.part.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return t.part.Truncate(0)
}

func (t *transfer) checkSize(size int64) error {
	if t.MaxSize > 0 && size > t.MaxSize {
		return fmt.Errorf("larger than the limit of %d bytes", t.MaxSize)
	}
	return nil
}

// receive takes a body to the end of part; alive is called at each sign of life.
func (t *transfer) receive(body io.Reader, alive func()) error {
	buf := make([]byte, copyBuffer)
	for {
		n, rerr := body.Read(buf)
		if n > 0 {
			alive()
			t.sum.Write(buf[:n])
			if _, err := t.part.Write(buf[:n]); err != nil {
				t.spent = true // what fills the disk is of no use
				return fmt.Errorf("keeping the download: %w", err)
			}
			t.done += int64(n)
			if err := t.noteSome(); err != nil {
				return err
			}
			if err := t.checkSize(t.done); err != nil {
				return err
			}
			if t.Progress != nil {
				t.Progress(t.done, t.total)
			}
		}
		switch {
		case rerr == io.EOF && t.total >= 0 && t.done != t.total:
			rerr = io.ErrUnexpectedEOF
			fallthrough
		case rerr != nil && rerr != io.EOF:
			return &passingError{err: fmt.Errorf("cut after %d bytes: %s", t.done, oneLine(rerr))}
		case rerr == io.EOF:
			return nil
		}
	}
}

// check compares a whole file with what its server and its hash say.
func (t *transfer) check(d digest.Digest) error {
	if t.says != "" && t.says != d.Encoded() {
		return fmt.Errorf("the server says that its sha256 is %s, but sent %s", t.says, d.Encoded())
	}
	if t.Hash != "" && t.Hash != d.Encoded() {
		return t.mismatch(d.Encoded())
	}
	return nil
}

// finish gives a whole file its place and notes where it came from.
func (t *transfer) finish(d digest.Digest) (*Download, error) {
	t.spent = true
	path := t.downloadPath(d)
	if err := t.dir().Publish(t.part, path, 0o644); err != nil {
		return nil, err
	}
	// Since part is locked, nobody removes it.
	if held, err := t.tryHold(path); !held {
		return nil, errors.Join(err, fmt.Errorf("%s was removed as it was downloaded: build again", path))
	}
	v := validators{1, t.name, d, t.done, t.etag, t.lastModified, time.Now().UTC().Truncate(time.Second)}
	err := t.writeFile(t.validatorsPath(), func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
	if err != nil {
		return nil, err
	}
	return &Download{Path: path, Digest: d, Size: t.done, ETag: t.etag, LastModified: t.lastModified}, nil
}

func (s *Store) downloadPath(d digest.Digest) string {
	return filepath.Join(s.state, "downloads", d.Encoded()[:2], d.Encoded())
}

func (f *fetch) validatorsPath() string {
	return filepath.Join(f.state, "downloads", "urls", f.urlHash()+".json")
}

// urlHash stands for the URL without user and password.
func (f *fetch) urlHash() string {
	u := *f.url
	u.User = nil
	sum := sha256.Sum256([]byte(u.String()))
	return hex.EncodeToString(sum[:16])
}

// readValidators returns false for a file that is missing or damaged.
func readValidators(path string) (v validators, ok bool) {
	b, err := statedir.ReadFile(path)
	return v, err == nil && json.Unmarshal(b, &v) == nil && v.Version == 1 && v.Digest.Validate() == nil
}

// have returns the download that v tells of, if it is here and sound. A damaged one is put aside.
func (f *fetch) have(ctx context.Context, v validators) (Download, bool) {
	if v.Digest.Validate() != nil {
		return Download{}, false
	}
	path := f.downloadPath(v.Digest)
	st, err := os.Stat(path)
	if err != nil {
		return Download{}, false
	}
	got, err := f.FileDigest(ctx, Source{Root: filepath.Dir(path), Path: filepath.Base(path)})
	if err != nil {
		return Download{}, false
	}
	if got != v.Digest {
		_, _ = f.dir().PutAside(path, "download-"+v.Digest.Encoded()) // if not, it is met, and put aside, again
		return Download{}, false
	}
	if held, _ := f.tryHold(path); !held {
		return Download{}, false
	}
	return Download{Path: path, Digest: v.Digest, Size: st.Size(), ETag: v.ETag, LastModified: v.LastModified}, true
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// retryAfter is how long a server wants to be left alone (RFC 9110, 10.2.3).
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(v); err == nil && seconds > 0 {
		return time.Duration(min(seconds, 1e6)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return time.Until(at)
	}
	return 0
}
