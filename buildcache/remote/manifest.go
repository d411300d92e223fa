package remote

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of the manifest that a bundle is stored as. Registries refuse more than 4 or
// 5 MiB.
const (
	maxManifest = 4<<20 - 1
	maxInline   = 1 << 20 // bytes of a config that the manifest has in it
)

// envelopeLabel is the label that holds the envelope where the config is that of an
// image: see Artifact.
const envelopeLabel = "layerbuild.cache.v1"

// A Blob is a packed layer that the records of a bundle name.
type Blob struct {
	ispec.Descriptor
	DiffID digest.Digest
}

// An Artifact is a bundle as a repository keeps it: a manifest and its config. Where a
// registry refuses configs that are not of images, the config is that of an image
// which nobody runs, and the envelope is a label in it.
type Artifact struct {
	Manifest []byte
	Config   []byte
	Type     string // of the config
}

// NewArtifact makes the manifest and config of an envelope and the blobs that it
// stands for.
func NewArtifact(envelope []byte, blobs []Blob, asImage bool) (*Artifact, error) {
	a := &Artifact{Config: envelope, Type: ConfigType}
	m := ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ispec.MediaTypeImageManifest,
		Layers:    []ispec.Descriptor{},
	}
	if asImage {
		a.Type = ispec.MediaTypeImageConfig
		var err error
		if a.Config, err = imageConfig(envelope, blobs); err != nil {
			return nil, err
		}
	} else {
		m.ArtifactType = ConfigType
	}
	m.Config = ispec.Descriptor{MediaType: a.Type, Digest: digest.FromBytes(a.Config), Size: int64(len(a.Config))}
	if len(a.Config) <= maxInline {
		m.Config.Data = a.Config
	}
	for _, blob := range blobs {
		m.Layers = append(m.Layers, ispec.Descriptor{MediaType: blob.MediaType, Digest: blob.Digest, Size: blob.Size})
	}
	var err error
	if a.Manifest, err = json.Marshal(m); err != nil {
		return nil, err
	}
	if len(a.Manifest) > maxManifest {
		return nil, fmt.Errorf("the manifest of %d layers has %d bytes, more than registries take", len(blobs), len(a.Manifest))
	}
	return a, nil
}

// imageConfig is the config of an image that has an envelope in a label.
func imageConfig(envelope []byte, blobs []Blob) ([]byte, error) {
	config := ispec.Image{
		Created:  &time.Time{},
		Platform: ispec.Platform{OS: "linux", Architecture: "amd64"},
		Config:   ispec.ImageConfig{Labels: map[string]string{envelopeLabel: string(envelope)}},
		RootFS:   ispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	for _, blob := range blobs {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, blob.DiffID)
	}
	return json.Marshal(config)
}

// A Stored is the manifest of a bundle as a repository gave it. Nothing of it is
// signed: a blob that it names is only believed to be there.
type Stored struct {
	Config ispec.Descriptor
	Blobs  []ispec.Descriptor
}

// ParseManifest reads a manifest that was found under a tag of a bundle. The error is
// ErrDamaged.
func ParseManifest(data []byte) (*Stored, error) {
	var m ispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", ErrDamaged, err)
	}
	if t := m.Config.MediaType; t != ConfigType && t != ispec.MediaTypeImageConfig {
		return nil, fmt.Errorf("%w: its config is a %.100q", ErrDamaged, t)
	}
	s := &Stored{Config: m.Config}
	if err := checkDescriptor(s.Config, maxEnvelope); err != nil {
		return nil, fmt.Errorf("%w: its config: %w", ErrDamaged, err)
	}
	if s.Config.Data != nil && digest.FromBytes(s.Config.Data) != s.Config.Digest {
		s.Config.Data = nil // the blob may be sound
	}
	for _, d := range m.Layers {
		if err := checkDescriptor(d, 1<<50); err != nil {
			return nil, fmt.Errorf("%w: its layers: %w", ErrDamaged, err)
		}
		s.Blobs = append(s.Blobs, ispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	}
	return s, nil
}

func checkDescriptor(d ispec.Descriptor, most int64) error {
	if d.Size < 0 || d.Size > most {
		return fmt.Errorf("%s has %d bytes, of at most %d", d.Digest, d.Size, most)
	}
	return checkDigest(d.Digest)
}

// Envelope returns the envelope that the bytes of a config hold. The error is
// ErrDamaged.
func (s *Stored) Envelope(config []byte) ([]byte, error) {
	if digest.FromBytes(config) != s.Config.Digest {
		return nil, fmt.Errorf("%w: its config is not what its digest says", ErrDamaged)
	}
	if s.Config.MediaType == ConfigType {
		return config, nil
	}
	var image ispec.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return nil, fmt.Errorf("%w: its config: %w", ErrDamaged, err)
	}
	return []byte(image.Config.Labels[envelopeLabel]), nil
}
