package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/layerbuild/layerbuild/locks"
)

// A Layer is one layer of an image: the blob, and the digest of its
// uncompressed tar. The zero Descriptor stands for a layer that was not packed.
type Layer struct {
	Descriptor
	DiffID digest.Digest `json:"diffID"`
}

// A Base is an image that was taken in: all its blobs are in the store. It is
// told apart by Manifest, never by name.
type Base struct {
	Ref      string        // how the caller named it; for messages only
	Manifest digest.Digest // of the manifest as its source has it
	Config   ispec.Image   // what an image built on it inherits
	Docker   DockerConfig  // what Docker's configuration has besides
	Layers   []Layer       // lowest first; media types are OCI's also for a Docker image
}

// A source is where an image comes from: a layout, a registry.
type source interface {
	// document returns the bytes of a manifest, an index or a config. They need
	// not be checked by the source. d.Size may be 0 where it is not known.
	document(ctx context.Context, d Descriptor) ([]byte, error)
	// fetch writes the whole blob to w, which checks it afterwards. It may go on
	// at w.Size() or w.Reset() when it was cut.
	fetch(ctx context.Context, d Descriptor, w *Writer) error
	// far tells whether what has come of a blob is worth keeping when the rest does
	// not come. Then fetch goes on at w.Size() from the beginning.
	far() bool
}

// parallelFetches bounds how many layers of one image are fetched at a time.
const parallelFetches = 4

// takeIn brings an image into the store, the blobs that are there already
// excepted, and checks it. manifest is the descriptor of an image's manifest,
// not of an index: see resolve.
func (s *Store) takeIn(ctx context.Context, src source, ref string, manifest Descriptor, progress func(done, total int64)) (*Base, error) {
	data, err := s.document(ctx, src, manifest)
	if err != nil {
		return nil, fmt.Errorf("%s: manifest: %w", ref, err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	config, err := s.document(ctx, src, m.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: config: %w", ref, err)
	}
	base, err := newBase(manifest.Digest, m, config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	base.Ref = ref

	for _, d := range m.Layers {
		if s.Bounds.Bytes > 0 && d.Size > s.Bounds.Bytes {
			return nil, fmt.Errorf("%s: layer %s is %d bytes long: %w (--max-layer-size)", ref, d.Digest, d.Size, ErrBounds)
		}
	}
	if err := s.takeLayers(ctx, src, base.Layers, progress); err != nil {
		return nil, fmt.Errorf("%s: layer: %w", ref, err)
	}
	// Where the manifest is, all is there and has been compared.
	for _, document := range []struct {
		mediaType string
		content   []byte
	}{{ispec.MediaTypeImageConfig, config}, {ispec.MediaTypeImageManifest, data}} {
		if _, err := s.PutBytes(ctx, document.mediaType, document.content); err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
	}
	return base, nil
}

// takeLayers brings in the layers that are not there. The DiffID of each is compared, also
// of one that is there: everything that is remembered of an image is found by DiffIDs, so
// that another content under a known one would not be noticed later.
func (s *Store) takeLayers(ctx context.Context, src source, layers []Layer, progress func(done, total int64)) error {
	var all, lacking []Descriptor
	byDigest := map[digest.Digest]Layer{}
	for _, l := range layers {
		if other, ok := byDigest[l.Digest]; ok && other.DiffID != l.DiffID {
			return fmt.Errorf("%s: its config gives it the diff_ids %s and %s: %w", l.Digest, other.DiffID, l.DiffID, ErrCorrupt)
		}
		byDigest[l.Digest] = l
		all = append(all, l.Descriptor)
	}
	all = distinct(all)
	for _, d := range all {
		if !s.Has(d) {
			lacking = append(lacking, d)
		}
	}
	wrote := counted(lacking, progress)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelFetches)
	for _, d := range all {
		g.Go(func() error { return s.takeLayer(ctx, src, byDigest[d.Digest], wrote) })
	}
	return g.Wait()
}

// takeLayer brings in a layer, or compares the one that is there.
func (s *Store) takeLayer(ctx context.Context, src source, l Layer, wrote func(n int64)) error {
	if f, err := s.Open(l.Descriptor); err == nil {
		err = s.checkDiffID(ctx, f, l)
		f.Close()
		if err == nil || s.inspect(l.Descriptor) == nil { // the blob is sound, the image is not
			return err
		}
	}
	return s.takeBlob(ctx, src, l, wrote)
}

// counted returns a function that adds up what is written of some blobs, for
// progress.
func counted(blobs []Descriptor, progress func(done, total int64)) func(n int64) {
	if progress == nil {
		return func(int64) {}
	}
	var total int64
	for _, d := range blobs {
		total += d.Size
	}
	var done atomic.Int64
	return func(n int64) { progress(done.Add(n), total) }
}

// distinct leaves out descriptors of a blob that was named before.
func distinct(ds []Descriptor) []Descriptor {
	var out []Descriptor
	seen := map[digest.Digest]bool{}
	for _, d := range ds {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out
}

// document returns a manifest or config, checked: that of the store, if it is there.
func (s *Store) document(ctx context.Context, src source, d Descriptor) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	here := d
	if fi, err := os.Lstat(s.Path(d.Digest)); err == nil && d.Size == 0 {
		here.Size = fi.Size()
	}
	if s.Has(here) {
		if data, err := s.ReadAll(here); err == nil {
			return data, nil
		}
		_ = s.inspect(here) // it is taken in again
	}
	return checkedDocument(ctx, src, d)
}

// checkedDocument returns a document of the source if it is what d says.
func checkedDocument(ctx context.Context, src source, d Descriptor) ([]byte, error) {
	data, err := src.document(ctx, d)
	if err != nil {
		return nil, err
	}
	if d.Size == 0 {
		d.Size = int64(len(data))
	}
	if err := compare(d, digest.FromBytes(data), int64(len(data))); err != nil {
		return nil, err
	}
	return data, nil
}

// Take brings a blob into the store with a function that appends to a Writer what that
// lacks of it. One that was cut is continued; the error is ErrCorrupt where what comes is
// another blob. What it holds is not looked at. progress, if not nil, receives how much of the blob has come.
func (s *Store) Take(ctx context.Context, d Descriptor, fetch func(context.Context, *Writer) error, progress func(done, total int64)) error {
	return s.takeBlob(ctx, fetched(fetch), Layer{Descriptor: d}, counted([]Descriptor{d}, progress))
}

// fetched is a source that gives blobs and nothing else.
type fetched func(context.Context, *Writer) error

func (f fetched) document(context.Context, Descriptor) ([]byte, error) { return nil, fs.ErrNotExist }
func (f fetched) far() bool                                            { return true }
func (f fetched) fetch(ctx context.Context, _ Descriptor, w *Writer) error {
	return f(ctx, w)
}

// takeBlob brings the blob of a layer into the store. wrote is told each number of bytes
// that has come, a negative one when they have to come again. Without a DiffID the content is
// not looked at.
func (s *Store) takeBlob(ctx context.Context, src source, l Layer, wrote func(n int64)) error {
	d := l.Descriptor
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if s.Has(d) {
		return nil
	}
	begin := func() (*Writer, error) { return s.NewWriter(ctx) }
	if src.far() {
		lock, err := locks.Take(ctx, s.partPath(d.Digest)+".lock", "has been fetching layer "+d.Digest.String())
		if err != nil {
			return err
		}
		defer lock.Unlock()
		if s.Has(d) { // another has fetched it meanwhile
			wrote(d.Size)
			return nil
		}
		begin = func() (*Writer, error) { return s.resume(ctx, d) }
	}
	w, err := begin()
	if err != nil {
		return err
	}
	defer w.Close()
	w.wrote = wrote
	wrote(w.Size())
	if w.Size() < d.Size {
		if err := src.fetch(ctx, d, w); err != nil {
			return err
		}
	}
	return w.commitLayer(l)
}

// Base returns a base that was taken in before, by its manifest's digest,
// without its source. The error is fs.ErrNotExist when any of its blobs is not
// there, and ErrCorrupt when one is damaged: then it is to be taken in again.
func (s *Store) Base(manifest digest.Digest) (*Base, error) {
	base, m, err := s.readBase(manifest)
	if err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if !s.Has(d) {
			return nil, fmt.Errorf("base %s: layer %s: %w", manifest, d.Digest, fs.ErrNotExist)
		}
	}
	return base, nil
}

// Described returns a base whose manifest and config are in the store. Of its layers any
// may be missing: what needs their content takes the base in first.
func (s *Store) Described(manifest digest.Digest) (*Base, error) {
	base, _, err := s.readBase(manifest)
	return base, err
}

// Documents returns the manifest and the config of a base, as they are in the store.
func (s *Store) Documents(manifest digest.Digest) ([][]byte, error) {
	_, m, err := s.readBase(manifest)
	if err != nil {
		return nil, err
	}
	fi, err := os.Lstat(s.Path(manifest))
	if err != nil {
		return nil, err
	}
	text, err := s.ReadAll(Descriptor{Digest: manifest, Size: fi.Size()})
	if err != nil {
		return nil, err
	}
	config, err := s.ReadAll(m.Config)
	return [][]byte{text, config}, err
}

// readBase reads a base's manifest and config.
func (s *Store) readBase(manifest digest.Digest) (*Base, ispec.Manifest, error) {
	if err := checkDigest(manifest); err != nil {
		return nil, ispec.Manifest{}, err
	}
	fi, err := os.Lstat(s.Path(manifest))
	if err != nil {
		return nil, ispec.Manifest{}, fmt.Errorf("base %s: %w", manifest, errors.Unwrap(err))
	}
	data, err := s.ReadAll(Descriptor{Digest: manifest, Size: fi.Size()})
	if err != nil {
		return nil, ispec.Manifest{}, fmt.Errorf("base %s: manifest: %w", manifest, err)
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, ispec.Manifest{}, fmt.Errorf("base %s: %w", manifest, err)
	}
	config, err := s.ReadAll(m.Config)
	if err != nil {
		return nil, ispec.Manifest{}, fmt.Errorf("base %s: config: %w", manifest, err)
	}
	base, err := newBase(manifest, m, config)
	if err != nil {
		return nil, ispec.Manifest{}, fmt.Errorf("base %s: %w", manifest, err)
	}
	return base, m, nil
}

// newBase puts a base together from a manifest in OCI's terms and the config's bytes.
func newBase(manifest digest.Digest, m ispec.Manifest, config []byte) (*Base, error) {
	base := &Base{Manifest: manifest}
	var err error
	if base.Config, base.Docker, err = unmarshalConfig(config); err != nil {
		return nil, fmt.Errorf("its config is not JSON of an image: %w", err)
	}
	rootfs := base.Config.RootFS
	if rootfs.Type != "layers" {
		return nil, fmt.Errorf("its config has the rootfs type %q, only \"layers\" is known", rootfs.Type)
	}
	if len(rootfs.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("its config lists %d layers, its manifest %d", len(rootfs.DiffIDs), len(m.Layers))
	}
	for i, id := range rootfs.DiffIDs {
		if err := checkDigest(id); err != nil {
			return nil, fmt.Errorf("its config's diff_id %d: %w", i+1, err)
		}
		base.Layers = append(base.Layers, Layer{Descriptor: m.Layers[i], DiffID: id})
	}
	return base, nil
}

// Docker's media types, from its image manifest version 2, schema 2.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1      = "application/vnd.docker.distribution.manifest.v1"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeign      = "application/vnd.docker.image.rootfs.foreign"
)

// layerTypes maps the media types of layers that can be unpacked to OCI's.
var layerTypes = map[string]string{
	ispec.MediaTypeImageLayer:     ispec.MediaTypeImageLayer,
	ispec.MediaTypeImageLayerGzip: ispec.MediaTypeImageLayerGzip,
	ispec.MediaTypeImageLayerZstd: ispec.MediaTypeImageLayerZstd,
	dockerLayer:                   ispec.MediaTypeImageLayer,
	dockerLayer + ".gzip":         ispec.MediaTypeImageLayerGzip,
	dockerLayer + ".zstd":         ispec.MediaTypeImageLayerZstd,
}

// parseManifest reads the manifest of an image and says it in OCI's terms:
// Docker's media types are replaced, what cannot be built on is refused.
func parseManifest(data []byte) (ispec.Manifest, error) {
	var m ispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("its manifest is not JSON of a manifest: %w", err)
	}
	switch {
	case m.MediaType == ispec.MediaTypeImageManifest, m.MediaType == dockerManifest, m.MediaType == "":
	case strings.HasPrefix(m.MediaType, dockerSchema1):
		return m, errors.New("its manifest has Docker's schema 1, which is no longer supported; push it again with a newer tool")
	default:
		return m, fmt.Errorf("its manifest has the media type %q, which is not that of an image", m.MediaType)
	}
	if m.SchemaVersion != 2 {
		return m, fmt.Errorf("its manifest has schemaVersion %d, only 2 is known", m.SchemaVersion)
	}
	switch m.Config.MediaType {
	case ispec.MediaTypeImageConfig, dockerConfig:
	default:
		return m, fmt.Errorf("its config has the media type %q: an artifact, not an image", m.Config.MediaType)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return m, fmt.Errorf("its config: %w", err)
	}
	m.MediaType = ispec.MediaTypeImageManifest
	m.Config.MediaType = ispec.MediaTypeImageConfig
	for i := range m.Layers {
		d := &m.Layers[i]
		if err := checkDescriptor(*d); err != nil {
			return m, fmt.Errorf("its layer %d: %w", i+1, err)
		}
		mapped, err := layerType(d.MediaType)
		if err != nil {
			return m, fmt.Errorf("its layer %d (%s): %w", i+1, d.Digest, err)
		}
		// What else the descriptor says (annotations, foreign URLs) is its
		// source's matter, not that of the images built on it.
		*d = Descriptor{MediaType: mapped, Digest: d.Digest, Size: d.Size}
	}
	return m, nil
}

// layerType returns OCI's name of a layer's media type, or why it cannot be unpacked.
func layerType(mediaType string) (string, error) {
	if mapped, ok := layerTypes[mediaType]; ok {
		return mapped, nil
	}
	switch {
	case strings.HasSuffix(mediaType, "+encrypted"):
		return "", fmt.Errorf("media type %q: encrypted layers are not supported", mediaType)
	case strings.HasPrefix(mediaType, dockerForeign), strings.Contains(mediaType, ".nondistributable."):
		return "", fmt.Errorf("media type %q: layers that may not be distributed are not supported", mediaType)
	case strings.Contains(mediaType, "squashfs"), strings.Contains(mediaType, "erofs"):
		return "", fmt.Errorf("media type %q: a base must have tar layers", mediaType)
	}
	return "", fmt.Errorf("media type %q is not that of a layer", mediaType)
}

// checkDescriptor checks what a descriptor must have (image spec, descriptor.md).
func checkDescriptor(d Descriptor) error {
	if d.Size < 0 {
		return fmt.Errorf("size %d of %s is negative", d.Size, d.Digest)
	}
	return checkDigest(d.Digest)
}
