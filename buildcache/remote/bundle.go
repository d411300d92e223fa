package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
)

// maxBundle bounds a bundle, in bytes of JSON. It holds the records of some 50,000
// layers.
const maxBundle = 64 << 20

// A Bundle is records that are looked up together.
type Bundle struct {
	Version   int                       `json:"version"`
	Tag       string                    `json:"tag"`     // the only one it may be found under
	Created   time.Time                 `json:"created"` // for people
	Recipes   map[string]buildcache.Key `json:"recipes"` // of the layers whose records are complete
	Records   []*buildcache.Record      `json:"records"`
	Documents [][]byte                  `json:"documents"` // manifests and configs of base images, whose digests are their names
}

// Covers reports whether the bundle has all records of the layers with these recipes.
func (b *Bundle) Covers(recipes []buildcache.Key) bool {
	known := slices.Collect(maps.Values(b.Recipes))
	return !slices.ContainsFunc(recipes, func(recipe buildcache.Key) bool { return !slices.Contains(known, recipe) })
}

// marshal returns the bundle as compressed JSON, the same for equal bundles.
func (b *Bundle) marshal() ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	if len(text) > maxBundle {
		return nil, fmt.Errorf("the records are %d bytes, of at most %d", len(text), maxBundle)
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(text, nil), w.Close()
}

// unmarshal reads a bundle. Records that this version does not know are left out: they
// would be found under no key. The error is ErrNewer or ErrDamaged.
func unmarshal(data []byte) (*Bundle, error) {
	text, err := decompress(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var version struct{ Version int }
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if version.Version != FormatVersion {
		return nil, fmt.Errorf("%w (format %d, this one knows %d)", ErrNewer, version.Version, FormatVersion)
	}
	b := &Bundle{}
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	b.Records = slices.DeleteFunc(b.Records, func(r *buildcache.Record) bool {
		return r == nil || r.Version != buildcache.FormatVersion || !slices.Contains(buildcache.Kinds(), r.Kind)
	})
	for _, r := range b.Records {
		if err := check(r); err != nil {
			return nil, fmt.Errorf("%w: its %s record %.12s: %w", ErrDamaged, r.Kind, r.Key, err)
		}
	}
	return b, nil
}

func decompress(data []byte) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBundle))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxBundle+1))
	if err == nil && len(text) > maxBundle {
		err = fmt.Errorf("more than %d bytes", maxBundle)
	}
	return text, err
}

// check refuses a record that is not under its own key, or whose result could not be
// used as one of this machine's.
func check(r *buildcache.Record) error {
	names := map[string]bool{}
	for _, in := range r.Inputs {
		if names[in.Name] {
			return fmt.Errorf("two inputs named %q", in.Name)
		}
		names[in.Name] = true
	}
	if r.Inputs.Key(r.Kind) != r.Key {
		return errors.New("its inputs have another key")
	}
	return checkResult(r.Kind, r.Result)
}

// checkResult checks that a result has the form of its kind, and that what is to be a
// digest is one: digests become names of files.
func checkResult(kind buildcache.Kind, result json.RawMessage) error {
	var digests []digest.Digest
	var err error
	switch kind {
	case buildcache.Rootfs:
		var fs struct {
			Layers []struct {
				DiffID digest.Digest `json:"diff_id"`
			} `json:"layers"`
		}
		err = json.Unmarshal(result, &fs)
		for _, layer := range fs.Layers {
			digests = append(digests, layer.DiffID)
		}
	case buildcache.Pack:
		var blob ispec.Descriptor
		err = json.Unmarshal(result, &blob)
		if blob.Size < 0 {
			return fmt.Errorf("the size %d is negative", blob.Size)
		}
		digests = append(digests, blob.Digest)
	case buildcache.Resolve:
		var manifest digest.Digest
		err = json.Unmarshal(result, &manifest)
		digests = append(digests, manifest)
	case buildcache.Digest:
		var m struct {
			Tree struct{ Digest digest.Digest } `json:"tree"`
			File digest.Digest                  `json:"file"`
		}
		err = json.Unmarshal(result, &m)
		if digests = append(digests, m.Tree.Digest); m.File != "" {
			digests = append(digests, m.File)
		}
	case buildcache.Labels:
		var labels map[string]string
		err = json.Unmarshal(result, &labels)
	}
	if err != nil {
		return err
	}
	for _, d := range digests {
		if err := checkDigest(d); err != nil {
			return err
		}
	}
	return nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%q is no digest: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q is not a sha256", d)
	}
	return nil
}
