package oci

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Registry takes images from registries. It keeps connections and logins for
// the images of one build and may be used by many goroutines.
//
// Requests that fail for the moment (429, 5xx, a cut connection) are tried again,
// after the time that the registry asks for. Proxies are those of HTTPS_PROXY,
// HTTP_PROXY and NO_PROXY. Credentials, certificates, and where images are really
// taken from are those of podman, skopeo and docker, see credentials, certFolders and
// registriesConf.
type Registry struct {
	credentials credentials
	certs       certFolders
	conf        func() (registriesConf, error)
	pause       time.Duration // before the second attempt; longer before each further one
	stall       time.Duration // how long a body may bring nothing
	allow       string        // how a user allows what is insecure

	mu       sync.Mutex
	sessions map[string]*session
}

// NewRegistry returns a Registry that reads credentials where the environment says.
func NewRegistry() *Registry {
	return &Registry{
		credentials: defaultCredentials(),
		certs:       defaultCertFolders(),
		conf:        sync.OnceValues(readRegistriesConf),
		pause:       300 * time.Millisecond,
		stall:       time.Minute,
		allow:       "`insecure: true`",
		sessions:    map[string]*session{},
	}
}

// An ImageRef names an image in a registry.
type ImageRef struct {
	// Name is docker://host/repository:tag@digest, or the same without docker://. The
	// host is Docker's when missing, as in debian:12, the tag is latest. A digest
	// counts more than a tag.
	Name string

	// Insecure allows https without a check of the certificate, and plain http where
	// https is not served.
	Insecure bool
}

func (r ImageRef) parse() (name.Reference, error) {
	text := strings.TrimPrefix(r.Name, "docker://")
	if host, _, _ := strings.Cut(text, "/"); strings.Contains(host, "@") && strings.Contains(text, "/") {
		return nil, errors.New("an image's name must not hold credentials: log in with `skopeo login`")
	}
	options := []name.Option{name.WeakValidation}
	if r.Insecure {
		options = append(options, name.Insecure)
	}
	ref, err := name.ParseReference(text, options...)
	if err != nil {
		return nil, fmt.Errorf("%q is not the name of an image: want docker://host/repository:tag or @sha256:…", r.Name)
	}
	if pinned, ok := ref.(name.Digest); ok {
		// One that cannot be checked would be followed blindly.
		if err := checkDigest(digest.Digest(pinned.DigestStr())); err != nil {
			return nil, fmt.Errorf("%q: %w", r.Name, err)
		}
	}
	return ref, nil
}

// Pinned returns the digest that ref names, of a manifest or an index; "" when it
// names none.
func (r ImageRef) Pinned() digest.Digest {
	ref, err := r.parse()
	if err != nil {
		return ""
	}
	if pinned, ok := ref.(name.Digest); ok {
		return digest.Digest(pinned.DigestStr())
	}
	return ""
}

// Resolve returns the manifest that ref stands for now on a platform. It costs one
// HEAD request, and a GET for each index on the way. The error is ErrNotFound,
// ErrUnauthorized or ErrUnreachable where it is one of these.
func (r *Registry) Resolve(ctx context.Context, ref ImageRef, p ispec.Platform) (Descriptor, error) {
	src, err := r.source(ref)
	if err != nil {
		return Descriptor{}, err
	}
	var found Descriptor
	err = src.try(ctx, func(s *session, identifier string) error {
		root, err := s.head(ctx, identifier)
		if err == nil {
			found, err = resolve(ctx, s, []Descriptor{root}, p)
		}
		return err
	})
	if err != nil {
		return Descriptor{}, fmt.Errorf("%s: %w", ref.Name, err)
	}
	return found, nil
}

// BaseFromRegistry takes in the image that ref names and whose manifest Resolve
// has found, now or in an earlier build. What ref stands for by now does not
// matter. Blobs that the store has are not fetched again; a layer that was cut is
// continued. progress, if not nil, is told how many bytes of the layers that are
// fetched have come; it is called by several goroutines at once.
func (s *Store) BaseFromRegistry(ctx context.Context, r *Registry, ref ImageRef, manifest digest.Digest, progress func(done, total int64)) (*Base, error) {
	src, err := r.source(ref)
	if err != nil {
		return nil, err
	}
	return s.takeIn(ctx, src, ref.Name, Descriptor{Digest: manifest}, progress)
}

// A session reads one repository. It is a source.
type session struct {
	repo   name.Repository
	client http.Client
	login  string // where the credentials are from, "" without any
	allow  string // how a user allows what is insecure
	pause  time.Duration
	stall  time.Duration

	ready sync.Mutex // held while logging in
}

// session returns the session of a repository, logged in.
func (r *Registry) session(ctx context.Context, repo name.Repository, insecure bool) (*session, error) {
	r.mu.Lock()
	key := fmt.Sprint(repo.Name(), insecure)
	s := r.sessions[key]
	if s == nil {
		s = &session{repo: repo, pause: r.pause, stall: r.stall, allow: r.allow}
		r.sessions[key] = s
	}
	r.mu.Unlock()
	s.ready.Lock()
	defer s.ready.Unlock()
	if s.client.Transport != nil {
		return s, nil
	}
	auth, login, err := r.credentials.lookup(ctx, repo)
	if err != nil {
		return nil, err
	}
	s.login = login
	scopes := []string{repo.Scope(transport.PullScope)}
	limited, cancel := context.WithTimeout(ctx, 3*maxWait)
	defer cancel()
	certs, err := r.certs.lookup(repo.Registry)
	if err != nil {
		return nil, err
	}
	t, err := transport.NewWithContext(limited, repo.Registry, auth, newTransport(certs, insecure, r.pause), scopes)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	s.client.Transport = t
	return s, nil
}

// get sends a request for a manifest or blob. The answer has one of the wanted
// statuses, and a body that is watched.
func (s *session) get(ctx context.Context, method, path string, header http.Header, want ...int) (*http.Response, error) {
	u := url.URL{Scheme: s.repo.Scheme(), Host: s.repo.RegistryStr(), Path: "/v2/" + s.repo.RepositoryStr() + "/" + path}
	watched, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(watched, method, u.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	req.Header = header
	resp, err := s.client.Do(req)
	if err == nil {
		resp.Body = watch(watched, cancel, resp.Body, s.stall)
		if err = transport.CheckError(resp, want...); err == nil {
			return resp, nil
		}
		resp.Body.Close()
	}
	cancel(nil)
	return nil, s.explain(ctx, err)
}

func manifestHeader() http.Header {
	types := []string{ispec.MediaTypeImageManifest, ispec.MediaTypeImageIndex, dockerManifest, dockerManifestList}
	return http.Header{"Accept": {strings.Join(types, ", ")}}
}

// head describes what a tag or digest stands for. Where an answer to HEAD does not
// say all of it, the whole is fetched.
func (s *session) head(ctx context.Context, identifier string) (Descriptor, error) {
	resp, err := s.get(ctx, http.MethodHead, "manifests/"+identifier, manifestHeader(), http.StatusOK, http.StatusMethodNotAllowed)
	if err != nil {
		return Descriptor{}, err
	}
	resp.Body.Close()
	d := Descriptor{
		MediaType: mediaType(resp.Header),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      max(resp.ContentLength, 0),
	}
	if checkDigest(d.Digest) == nil && (isManifest(d.MediaType) || isIndex(d.MediaType)) {
		return d, matches(d, identifier)
	}
	data, found, err := s.manifest(ctx, identifier)
	if err != nil {
		return Descriptor{}, err
	}
	d = descriptorOf(sniff(found, data), data)
	return d, matches(d, identifier)
}

// matches checks that a registry gave what was asked for by digest.
func matches(d Descriptor, identifier string) error {
	if want := digest.Digest(identifier); checkDigest(want) == nil && want != d.Digest {
		return fmt.Errorf("the registry gives manifest %s for %s: %w", d.Digest, want, ErrCorrupt)
	}
	return nil
}

// sniff returns the media type that a document names itself, or shows by its form.
func sniff(mediaType string, data []byte) string {
	if isManifest(mediaType) || isIndex(mediaType) {
		return mediaType
	}
	var doc struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	switch err := json.Unmarshal(data, &doc); {
	case err != nil:
		return mediaType
	case doc.MediaType != "":
		return doc.MediaType
	case doc.Manifests != nil:
		return ispec.MediaTypeImageIndex
	}
	return ispec.MediaTypeImageManifest
}

func mediaType(h http.Header) string {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

// manifest returns the bytes of a manifest or index and the media type that the
// registry says it has.
func (s *session) manifest(ctx context.Context, identifier string) ([]byte, string, error) {
	return s.read(ctx, "manifests/"+identifier, manifestHeader())
}

// document is a method of source. Only a config is a blob for a registry.
func (s *session) document(ctx context.Context, d Descriptor) (data []byte, err error) {
	if d.MediaType == ispec.MediaTypeImageConfig {
		data, _, err = s.read(ctx, "blobs/"+d.Digest.String(), http.Header{})
	} else {
		data, _, err = s.manifest(ctx, d.Digest.String())
	}
	return data, err
}

// read returns a document and the media type it is sent with.
func (s *session) read(ctx context.Context, path string, header http.Header) (data []byte, found string, err error) {
	err = s.persist(ctx, func() (int64, error) {
		resp, err := s.get(ctx, http.MethodGet, path, header, http.StatusOK)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		found = mediaType(resp.Header)
		data, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
		return 0, err
	})
	if len(data) > maxDocument {
		return nil, "", fmt.Errorf("more than %d MiB are too much for a manifest or config", maxDocument>>20)
	}
	return data, found, err
}

// persist does what may be cut again, as long as it comes further than before and
// some times more. A registry that has begun to give may be gone for a moment: it is
// restarted, say.
func (s *session) persist(ctx context.Context, do func() (came int64, err error)) error {
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
		if attempt >= maxAttempts {
			return s.explain(ctx, err)
		}
		if err := sleep(ctx, backoff(s.pause, attempt)); err != nil {
			return err
		}
	}
}

// far is a method of source.
func (s *session) far() bool { return true }

// fetch is a method of source.
func (s *session) fetch(ctx context.Context, d Descriptor, w *Writer) error {
	begun := w.Size()
	return s.persist(ctx, func() (int64, error) {
		err := s.fetchRest(ctx, d, w)
		return w.Size() - begun, err
	})
}

// fetchRest appends to w what it lacks. It returns a cutError when there is more to
// come, and nil when the registry has given all that it has, which may not be what
// d says: that is for the caller to check.
func (s *session) fetchRest(ctx context.Context, d Descriptor, w *Writer) error {
	header := http.Header{}
	if w.Size() > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", w.Size(), d.Size-1))
	}
	resp, err := s.get(ctx, http.MethodGet, "blobs/"+d.Digest.String(), header,
		http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return cmp.Or(w.Reset(), error(cutError{errors.New("the registry cannot go on where it was cut")}))
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", w.Size())) {
			return errors.New("the registry gives another part of the blob than was asked for")
		}
	case http.StatusOK: // it knows no ranges
		if err := w.Reset(); err != nil {
			return err
		}
	}
	before := w.Size()
	if err := s.copy(d, w, resp.Body); err != nil {
		return err
	}
	if w.Size() < d.Size && w.Size() > before && resp.ContentLength < 0 {
		return cutError{io.ErrUnexpectedEOF} // perhaps: without a length no one can tell
	}
	return nil
}

// copy copies what is left of a body; one byte more than d says is enough to know
// that it is too much.
func (s *session) copy(d Descriptor, w *Writer, body io.Reader) error {
	buf := make([]byte, 256<<10)
	body = io.LimitReader(body, d.Size+1-w.Size())
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
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

// watchedBody gives up a body that brings nothing for too long. Its errors of
// reading are cutErrors.
type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer
}

func watch(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, stall time.Duration) *watchedBody {
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	return &watchedBody{body, ctx, cancel, stall, timer}
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	n, err := b.body.Read(p)
	b.timer.Stop() // what we do with it may take longer
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
