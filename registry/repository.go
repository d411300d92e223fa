package registry

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

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Access is what a login permits in a repository.
type Access string

// The kinds of access.
const (
	Pull = Access(transport.PullScope)
	Push = Access(transport.PushScope) // and read
)

// A Repository reads from, and with Push writes to, one repository of one registry. It
// logs in when it is first used, once, and anew when a login has expired. It is safe for
// concurrent use.
type Repository struct {
	client   *Client
	name     name.Repository
	insecure bool
	access   Access
	login    *login

	mu      sync.Mutex
	session *session // nil before the first login
}

// A session is a login to a repository that the registry accepted.
type session struct {
	http   http.Client
	pusher *remote.Pusher
}

// Repository returns the repository that ref lies in, and the tag or digest there.
// Unlike an Image it is in no mirror, but exactly where its name says, as for podman
// when it pushes. It asks no registry yet.
func (c *Client) Repository(ref Ref, access Access) (*Repository, string, error) {
	to, err := ref.parse()
	if err != nil {
		return nil, "", err
	}
	conf, err := c.conf()
	if err != nil {
		return nil, "", err
	}
	if table := conf.find(to); table != nil && table.Blocked {
		return nil, "", table.blocked(ref, to)
	} else if table != nil && table.Insecure {
		ref.Insecure = true
		if to, err = ref.parse(); err != nil {
			return nil, "", err
		}
	}
	return c.at(place{to.Context(), ref.Insecure, access}), to.Identifier(), nil
}

// String returns the repository's name, with its host.
func (r *Repository) String() string { return r.name.String() }

// with calls do with a session. If the registry rejects the login, it is looked up again;
// if it has changed, or the session was an old one that may have expired, with calls do
// once more with a new session.
func (r *Repository) with(ctx context.Context, do func(s *session) error) error {
	s, fresh, err := r.loggedIn(ctx, nil)
	if err == nil {
		err = do(s)
	}
	if !errors.Is(err, ErrUnauthorized) && !errors.Is(err, ErrForbidden) {
		return err
	}
	changed, failed := r.login.renew(ctx)
	if failed != nil || !changed && (fresh || errors.Is(err, ErrForbidden)) {
		return cmp.Or(failed, err)
	}
	if s, _, err = r.loggedIn(ctx, s); err != nil {
		return err
	}
	return do(s)
}

// loggedIn returns the session and whether it is new. It replaces a rejected session.
func (r *Repository) loggedIn(ctx context.Context, refused *session) (s *session, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session != nil && r.session != refused {
		return r.session, false, nil
	}
	if _, err := r.login.AuthorizationContext(ctx); err != nil {
		return nil, true, err
	}
	certs, err := r.client.certs.lookup(r.name.Registry)
	if err != nil {
		return nil, true, err
	}
	limited, cancel := context.WithTimeout(ctx, 3*maxWait)
	defer cancel()
	base := newTransport(certs, r.insecure, r.client.options)
	t, err := transport.NewWithContext(limited, r.name.Registry, r.login, base, []string{r.name.Scope(string(r.access))})
	if err != nil {
		return nil, true, r.explain(ctx, err)
	}
	o := r.client.options
	again := remote.Backoff{Duration: o.Pause, Factor: 3, Steps: o.Attempts}
	pusher, err := remote.NewPusher(remote.WithTransport(t), remote.WithRetryBackoff(again))
	if err != nil {
		return nil, true, err
	}
	r.session = &session{http.Client{Transport: t}, pusher}
	return r.session, true, nil
}

// request sends a request for a manifest or blob, and returns a response with one of the
// wanted statuses.
func (r *Repository) request(ctx context.Context, method, path string, header http.Header, want ...int) (resp *http.Response, err error) {
	u := url.URL{Scheme: r.name.Scheme(), Host: r.name.RegistryStr(), Path: "/v2/" + r.name.RepositoryStr() + "/" + path}
	err = r.with(ctx, func(s *session) error {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return err
		}
		req.Header = header.Clone()
		if resp, err = s.http.Do(req); err == nil { //nolint:bodyclose // the caller closes it
			if err = transport.CheckError(resp, want...); err == nil {
				return nil
			}
			resp.Body.Close()
		}
		return r.explain(ctx, err)
	})
	return resp, err
}

func manifestHeader() http.Header {
	types := []string{ispec.MediaTypeImageManifest, ispec.MediaTypeImageIndex, dockerManifest, dockerManifestList}
	return http.Header{"Accept": {strings.Join(types, ", ")}}
}

// Head describes the manifest or index that a tag or digest stands for. It fetches the
// whole document if the response to HEAD is incomplete.
func (r *Repository) Head(ctx context.Context, identifier string) (ispec.Descriptor, error) {
	resp, err := r.request(ctx, http.MethodHead, "manifests/"+identifier, manifestHeader(), http.StatusOK, http.StatusMethodNotAllowed)
	if err != nil {
		return ispec.Descriptor{}, err
	}
	resp.Body.Close()
	d := ispec.Descriptor{
		MediaType: mediaType(resp.Header),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      max(resp.ContentLength, 0),
	}
	if isDigest(d.Digest) && (isManifest(d.MediaType) || isIndex(d.MediaType)) {
		return d, matches(d, identifier)
	}
	data, found, err := r.Manifest(ctx, identifier)
	if err != nil {
		return ispec.Descriptor{}, err
	}
	return ispec.Descriptor{MediaType: found, Digest: digest.FromBytes(data), Size: int64(len(data))}, nil
}

// matches returns an ErrCorrupt if identifier is a digest, and not that of d.
func matches(d ispec.Descriptor, identifier string) error {
	if want := digest.Digest(identifier); isDigest(want) && want != d.Digest {
		return fmt.Errorf("the registry gives manifest %s for %s: %w", d.Digest, want, ErrCorrupt)
	}
	return nil
}

// sniff returns the media type of a document: the given one if it is known, else the one
// in the document, else the one it looks like.
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

// Manifest returns the bytes of a manifest or index and its media type. If identifier is
// a digest, the bytes match it.
func (r *Repository) Manifest(ctx context.Context, identifier string) ([]byte, string, error) {
	data, found, err := r.read(ctx, "manifests/"+identifier, manifestHeader())
	if err != nil {
		return nil, "", err
	}
	return data, sniff(found, data), matches(ispec.Descriptor{Digest: digest.FromBytes(data)}, identifier)
}

// Document returns a manifest, an index, or a small blob such as a config, after checking
// it. d.Size may be 0 if it is not known.
func (r *Repository) Document(ctx context.Context, d ispec.Descriptor) (data []byte, err error) {
	path, header := "blobs/"+d.Digest.String(), http.Header{}
	if isManifest(d.MediaType) || isIndex(d.MediaType) || d.MediaType == "" {
		path, header = "manifests/"+d.Digest.String(), manifestHeader()
	}
	if data, _, err = r.read(ctx, path, header); err != nil {
		return nil, err
	}
	d.Size = cmp.Or(d.Size, int64(len(data)))
	return data, compare(d, digest.FromBytes(data), int64(len(data)))
}

// maxDocument bounds what is read into memory of a manifest, an index or a config.
const maxDocument = 16 << 20

// read returns a document and the media type it is sent with.
func (r *Repository) read(ctx context.Context, path string, header http.Header) (data []byte, found string, err error) {
	err = r.client.options.persist(ctx, func() (int64, error) {
		resp, err := r.request(ctx, http.MethodGet, path, header, http.StatusOK)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		found = mediaType(resp.Header)
		data, err = io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
		return 0, err
	})
	if errors.As(err, &cutError{}) {
		err = r.explain(ctx, err)
	}
	if len(data) > maxDocument {
		return nil, "", fmt.Errorf("more than %d MiB are too much for a manifest or config", maxDocument>>20)
	}
	return data, found, err
}

// Docker's media types, from its image manifest version 2, schema 2.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func isIndex(mediaType string) bool {
	return mediaType == ispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

func isManifest(mediaType string) bool {
	return mediaType == ispec.MediaTypeImageManifest || mediaType == dockerManifest
}
