package imports

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/redact"
	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/statedir"
)

// FetchOptions of a download.
type FetchOptions struct {
	// Client asks the server. It may be nil when Offline is set.
	Client *registry.Client

	// Hash is the sha256 that the file must have, as 64 hexadecimal digits; "" for
	// any. A file that is here already with this hash is used without asking.
	Hash string

	Offline  bool                    // use what is here; ask no server
	MaxSize  int64                   // bytes; larger files are refused; 0 for no limit
	Progress func(done, total int64) // of bytes; total is -1 while it is not known

	// Begin, when set, is called before the first byte of a file is taken; an error
	// of it is that of Fetch, and nothing is taken.
	Begin func(total int64) error
}

// ErrTooLarge is the cause of an error about a file that exceeds MaxSize.
var ErrTooLarge = errors.New("larger than the limit")

// A Download is a file that came from a URL. It is never changed.
type Download struct {
	Path   string
	Digest digest.Digest
	Size   int64

	// Notice, unless empty, is what to tell the user: that the server could not be
	// asked whether there is a newer file.
	Notice string
}

// validators is what is kept of a URL: downloads/urls/HASH.json. The hash is of
// the URL without user and password. Fields that an earlier version did not write are
// empty, and then not known.
type validators struct {
	Version      int           `json:"version"`
	URL          string        `json:"url"`            // redacted
	From         string        `json:"from,omitempty"` // where it led to, redacted, without signatures
	Digest       digest.Digest `json:"digest"`
	Size         int64         `json:"size"`
	ETag         string        `json:"etag,omitempty"`
	LastModified string        `json:"lastModified,omitempty"` // a strong one
	Fetched      time.Time     `json:"fetched"`
}

// Fetch returns the file at an http(s) URL. It is kept by content; if it is here
// from an earlier Fetch, the server is asked whether it has changed, and if the server
// cannot be reached, it is used with a Notice. How that is asked, and cut connections are
// resumed, also by a later Fetch, is registry.Client's Download.
//
// No user name, password or secret parameter of the URL is in any error.
func (s *Store) Fetch(ctx context.Context, rawURL string, o FetchOptions) (Download, error) {
	u, err := registry.ParseURL(rawURL)
	if err != nil {
		return Download{}, err
	}
	o.Hash = strings.ToLower(o.Hash)
	if o.Hash != "" && !isHash(o.Hash) {
		return Download{}, fmt.Errorf("%s: its hash %q is not 64 hexadecimal digits", redact.URL(rawURL), o.Hash)
	}
	f := &fetch{Store: s, FetchOptions: o, url: u, name: redact.URL(rawURL)}
	return f.run(ctx)
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

// get downloads the file unless the server says that known is still what it has.
func (f *fetch) get(ctx context.Context, v validators, known Download, has bool) (_ Download, err error) {
	p, err := f.takeUp(ctx)
	if err != nil {
		return Download{}, err
	}
	defer func() { err = errors.Join(err, p.leave()) }()
	file := registry.File{URL: f.url, SHA256: f.Hash, Sink: p, Part: p.version, Begin: p.begin}
	was := registry.Version{URL: v.From, ETag: v.ETag, LastModified: v.LastModified, Length: known.Size}
	if has {
		file.Have, file.Digest = &was, known.Digest
	}
	version, changed, err := f.Client.Download(ctx, file)
	switch {
	case err != nil && has && ctx.Err() == nil && registry.Passing(err):
		known.Notice = fmt.Sprintf("%s: %v: using what was downloaded on %s", f.name, err, v.Fetched.Format("2006-01-02 15:04"))
		return known, nil
	case err != nil:
		return Download{}, err
	case changed:
		return p.finish(version)
	case version.URL != was.URL || version.ETag != was.ETag || version.LastModified != was.LastModified:
		return known, f.keep(version, known.Digest, known.Size)
	}
	return known, nil
}

// begin notes what is about to come. It refuses what is too large or not the expected
// file before a byte of it has come.
func (p *part) begin(v registry.Version) error {
	p.version = v
	if p.Hash != "" && v.SHA256 != "" && v.SHA256 != p.Hash {
		p.spent = true
		return p.mismatch(v.SHA256)
	}
	if err := p.checkSize(v.Length); err != nil || p.Begin == nil || p.begun {
		return err
	}
	p.begun = true
	return p.Begin(v.Length)
}

func (p *part) checkSize(size int64) error {
	if p.MaxSize > 0 && size > p.MaxSize {
		p.spent = true
		return fmt.Errorf("%w of %s", ErrTooLarge, units.HumanSize(float64(p.MaxSize)))
	}
	return nil
}

// check compares a whole file with what its server and its hash say.
func (p *part) check() error {
	got, said := p.Digest().Encoded(), p.version.SHA256
	if said != "" && said != got {
		return fmt.Errorf("the server says that its sha256 is %s, but sent %s", said, got)
	}
	if p.Hash != "" && p.Hash != got {
		return p.mismatch(got)
	}
	return nil
}

// finish gives a whole file its place and notes where it came from.
func (p *part) finish(v registry.Version) (Download, error) {
	p.spent = true
	if err := p.check(); err != nil {
		return Download{}, err
	}
	d := p.Digest()
	path := p.downloadPath(d)
	if err := p.dir().Publish(p.file, path, 0o644); err != nil {
		return Download{}, err
	}
	// Since the part is locked, nobody removes it.
	if held, err := p.tryHold(path); !held {
		return Download{}, errors.Join(err, fmt.Errorf("%s was removed as it was downloaded: build again", path))
	}
	if err := p.keep(v, d, p.done); err != nil {
		return Download{}, err
	}
	return Download{Path: path, Digest: d, Size: p.done}, nil
}

// keep notes which version of the URL's file has which content.
func (f *fetch) keep(v registry.Version, d digest.Digest, size int64) error {
	kept := validators{1, f.name, v.URL, d, size, v.ETag, v.LastModified, time.Now().UTC().Truncate(time.Second)}
	return f.writeFile(f.validatorsPath(), func(w io.Writer) error { return json.NewEncoder(w).Encode(kept) })
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
	return Download{Path: path, Digest: v.Digest, Size: st.Size()}, true
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}
