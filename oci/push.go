package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A Publisher brings images from a layout to registries. It logs in as it was
// told to, or as Registry does. It is for one goroutine.
//
// Blobs that a repository has are not sent again. Those that another repository
// of the same registry has, as far as the Publisher knows, are mounted from there.
type Publisher struct {
	registry *Registry
	login    *authn.AuthConfig // nil: as the credentials files say
	insecure bool
	known    map[v1.Hash][]name.Repository // where blobs have been seen
}

// NewPublisher returns a Publisher. Without a user name the credentials are those
// that NewRegistry finds. Insecure is as in ImageRef.
func NewPublisher(username, password string, insecure bool) *Publisher {
	p := &Publisher{registry: NewRegistry(), insecure: insecure, known: map[v1.Hash][]name.Repository{}}
	p.registry.allow = "--skip-tls"
	if username != "" {
		p.login = &authn.AuthConfig{Username: username, Password: password}
	}
	return p
}

// Check says whether ref can name an image in a registry.
func (p *Publisher) Check(ref string) error {
	_, err := p.place(ref)
	return err
}

// place is where ref is pushed to. As with podman that is the registry that it
// names: locations and mirrors of registries.conf are for pulling.
func (p *Publisher) place(ref string) (endpoint, error) {
	image := ImageRef{Name: ref, Insecure: p.insecure}
	to, err := image.parse()
	if err != nil {
		return endpoint{}, err
	}
	conf, err := p.registry.conf()
	if err != nil {
		return endpoint{}, err
	}
	if r := conf.find(to); r != nil && r.Blocked {
		return endpoint{}, r.blocked(image, to)
	} else if r != nil && r.Insecure {
		image.Insecure = true
		to, err = image.parse()
	}
	return endpoint{to, image.Insecure}, err
}

// Push makes ref stand for an image of the layout, and reports whether it did so
// before. Bases name images in registries of whose blobs some may be the image's.
// The tag is written last, so that it never stands for something incomplete.
func (p *Publisher) Push(ctx context.Context, l *Layout, manifest Descriptor, ref string, bases ...string) (there bool, err error) {
	place, err := p.place(ref)
	if err != nil {
		return false, err
	}
	to := place.ref
	image, err := l.image(manifest)
	if err != nil {
		return false, fmt.Errorf("%s: %w", ref, err)
	}
	s := &session{repo: to.Context(), allow: p.registry.allow}
	options, err := p.options(ctx, s, place.insecure)
	if err != nil {
		return false, fmt.Errorf("%s: %w", ref, err)
	}
	if head, err := remote.Head(to, options...); err == nil && head.Digest.String() == manifest.Digest.String() {
		return true, p.remember(to.Context(), image)
	}
	if err := remote.Write(to, &mounting{image, p.origins(to.Context(), bases)}, options...); err != nil {
		if request := (*url.Error)(nil); errors.Is(err, ErrCorrupt) && errors.As(err, &request) {
			return false, fmt.Errorf("%s: %w", ref, request.Err) // what was read to be sent
		}
		return false, fmt.Errorf("%s: %w", ref, s.explain(ctx, err))
	}
	return false, p.remember(to.Context(), image)
}

func (p *Publisher) options(ctx context.Context, s *session, insecure bool) ([]remote.Option, error) {
	var auth authn.Authenticator
	if p.login != nil {
		auth, s.login = authn.FromConfig(*p.login), "--username"
	} else {
		var err error
		if auth, s.login, err = p.registry.credentials.lookup(ctx, s.repo); err != nil {
			return nil, err
		}
	}
	certs, err := p.registry.certs.lookup(s.repo.Registry)
	if err != nil {
		return nil, err
	}
	return []remote.Option{
		remote.WithContext(ctx),
		remote.WithAuth(auth),
		remote.WithTransport(newTransport(certs, insecure, p.registry.pause)),
	}, nil
}

// remember notes which blobs a repository has by now.
func (p *Publisher) remember(repo name.Repository, image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		h, err := layer.Digest()
		if err != nil {
			return err
		}
		if !slices.Contains(p.known[h], repo) {
			p.known[h] = append(p.known[h], repo)
		}
	}
	return nil
}

// origins returns what tells which other repository of a registry may have a blob.
func (p *Publisher) origins(to name.Repository, bases []string) func(v1.Hash) (name.Repository, bool) {
	var based []name.Repository
	for _, base := range bases {
		if at, err := p.place(base); err == nil {
			based = append(based, at.ref.Context())
		}
	}
	return func(h v1.Hash) (name.Repository, bool) {
		for _, repo := range slices.Concat(p.known[h], based) {
			if repo.RegistryStr() == to.RegistryStr() && repo.RepositoryStr() != to.RepositoryStr() {
				return repo, true
			}
		}
		return name.Repository{}, false
	}
}

// mounting is an image whose blobs say where else a registry may have them.
type mounting struct {
	v1.Image
	origin func(v1.Hash) (name.Repository, bool)
}

// Layers is a method of v1.Image.
func (m *mounting) Layers() ([]v1.Layer, error) {
	layers, err := m.Image.Layers()
	if err != nil {
		return nil, err
	}
	for i, layer := range layers {
		h, err := layer.Digest()
		if err != nil {
			return nil, err
		}
		if repo, ok := m.origin(h); ok {
			layers[i] = &remote.MountableLayer{Layer: layer, Reference: repo.Digest(h.String())}
		}
	}
	return layers, nil
}

// image returns an image of the layout as go-containerregistry sees it. Its
// documents are read and checked now, its blobs when they are sent.
func (l *Layout) image(manifest Descriptor) (v1.Image, error) {
	i := &layoutImage{layout: l, mediaType: types.MediaType(manifest.MediaType)}
	var err error
	if i.manifest, err = l.ReadDocument(manifest); err != nil {
		return nil, err
	}
	m, err := readManifest(i.manifest)
	if err != nil {
		return nil, err
	}
	if i.config, err = l.ReadDocument(m.Config); err != nil {
		return nil, err
	}
	if err := l.hasAll(m.Layers); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(i)
}

// layoutImage is a partial.CompressedImageCore.
type layoutImage struct {
	layout           *Layout
	mediaType        types.MediaType
	manifest, config []byte
}

func (i *layoutImage) MediaType() (types.MediaType, error) { return i.mediaType, nil }
func (i *layoutImage) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i *layoutImage) RawConfigFile() ([]byte, error)      { return i.config, nil }

func (i *layoutImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	m, err := readManifest(i.manifest)
	if err != nil {
		return nil, err
	}
	for _, d := range append(m.Layers, m.Config) {
		if d.Digest.String() == h.String() {
			return &layoutBlob{i.layout, d, h}, nil
		}
	}
	return nil, fmt.Errorf("the image has no blob %s", h)
}

// layoutBlob is a partial.CompressedLayer.
type layoutBlob struct {
	layout *Layout
	d      Descriptor
	hash   v1.Hash
}

func (b *layoutBlob) Digest() (v1.Hash, error)            { return b.hash, nil }
func (b *layoutBlob) Size() (int64, error)                { return b.d.Size, nil }
func (b *layoutBlob) MediaType() (types.MediaType, error) { return types.MediaType(b.d.MediaType), nil }

// Compressed is a method of partial.CompressedLayer. What is read is checked.
func (b *layoutBlob) Compressed() (io.ReadCloser, error) {
	f, err := b.layout.Open(b.d)
	if err != nil {
		return nil, err
	}
	return &sentBlob{verified(f, b.d), b}, nil
}

// A sentBlob puts its blob aside if that turns out to be damaged.
type sentBlob struct {
	io.ReadCloser
	of *layoutBlob
}

func (s *sentBlob) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if errors.Is(err, ErrCorrupt) {
		err = errors.Join(err, s.of.layout.PutAside(s.of.d.Digest))
	}
	return n, err
}
