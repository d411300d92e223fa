package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image is an image of a layout as its readers find it.
type image struct {
	digest           digest.Digest
	manifest, config []byte
}

// readImage returns the image that tag names, after it has checked sizes, digests,
// media types and DiffIDs as the OCI image specification wants them.
func readImage(layout, tag string) (image, error) {
	var version ispec.ImageLayout
	if err := readJSON(filepath.Join(layout, ispec.ImageLayoutFile), &version); err != nil {
		return image{}, err
	}
	if version.Version != ispec.ImageLayoutVersion {
		return image{}, fmt.Errorf("layout version is %q", version.Version)
	}
	var index ispec.Index
	if err := readJSON(filepath.Join(layout, ispec.ImageIndexFile), &index); err != nil {
		return image{}, err
	}
	if index.SchemaVersion != 2 {
		return image{}, fmt.Errorf("index has schemaVersion %d", index.SchemaVersion)
	}
	var found []ispec.Descriptor
	for _, d := range index.Manifests {
		if d.Annotations[ispec.AnnotationRefName] == tag {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return image{}, fmt.Errorf("%s has tag %s %d times", layout, tag, len(found))
	}
	return readManifest(layout, found[0])
}

func readManifest(layout string, d ispec.Descriptor) (image, error) {
	if d.MediaType != ispec.MediaTypeImageManifest {
		return image{}, fmt.Errorf("manifest has media type %s", d.MediaType)
	}
	text, err := readBlob(layout, d)
	if err != nil {
		return image{}, err
	}
	var manifest ispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return image{}, err
	}
	if manifest.SchemaVersion != 2 || manifest.Config.MediaType != ispec.MediaTypeImageConfig {
		return image{}, fmt.Errorf("manifest %s is not one of an image", d.Digest)
	}
	configText, err := readBlob(layout, manifest.Config)
	if err != nil {
		return image{}, err
	}
	var config ispec.Image
	if err := json.Unmarshal(configText, &config); err != nil {
		return image{}, err
	}
	if config.OS == "" || config.Architecture == "" || config.RootFS.Type != "layers" {
		return image{}, fmt.Errorf("config %s lacks os, architecture or rootfs type", manifest.Config.Digest)
	}
	if err := checkLayers(layout, manifest, config); err != nil {
		return image{}, err
	}
	return image{d.Digest, text, configText}, nil
}

func checkLayers(layout string, manifest ispec.Manifest, config ispec.Image) error {
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("%d layers, but %d DiffIDs", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	filled := 0
	for _, h := range config.History {
		if !h.EmptyLayer {
			filled++
		}
	}
	if len(config.History) > 0 && filled != len(manifest.Layers) {
		return fmt.Errorf("%d layers, but history of %d", len(manifest.Layers), filled)
	}
	for i, d := range manifest.Layers {
		blob, err := readBlob(layout, d)
		if err != nil {
			return err
		}
		diffID, err := diffIDs.of(d, blob)
		if err != nil {
			return fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		if diffID != config.RootFS.DiffIDs[i] {
			return fmt.Errorf("layer %s has DiffID %s, not %s", d.Digest, diffID, config.RootFS.DiffIDs[i])
		}
	}
	return nil
}

// diffIDs are those of blobs that were seen: scripts look at the same ones again and again.
var diffIDs diffIDCache

type diffIDCache struct{ seen sync.Map } // media type and digest → digest.Digest

// of returns the digest of what the blob of d, whose digest was checked, holds.
func (c *diffIDCache) of(d ispec.Descriptor, blob []byte) (digest.Digest, error) {
	key := [2]string{d.MediaType, d.Digest.String()}
	if diffID, ok := c.seen.Load(key); ok {
		return diffID.(digest.Digest), nil
	}
	var r io.Reader = bytes.NewReader(blob)
	switch d.MediaType {
	case ispec.MediaTypeImageLayer:
	case ispec.MediaTypeImageLayerGzip:
		unzipped, err := gzip.NewReader(r)
		if err != nil {
			return "", err
		}
		r = unzipped
	case ispec.MediaTypeImageLayerZstd:
		unzipped, err := zstd.NewReader(r)
		if err != nil {
			return "", err
		}
		defer unzipped.Close()
		r = unzipped
	default:
		return "", fmt.Errorf("it has media type %s", d.MediaType)
	}
	diffID, err := digest.FromReader(r)
	if err == nil {
		c.seen.Store(key, diffID)
	}
	return diffID, err
}

func readBlob(layout string, d ispec.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, err
	}
	blob, err := os.ReadFile(filepath.Join(layout, ispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	if err != nil {
		return nil, err
	}
	if int64(len(blob)) != d.Size || digest.FromBytes(blob) != d.Digest {
		return nil, fmt.Errorf("blob %s is not what its descriptor says", d.Digest)
	}
	return blob, nil
}

func readJSON(path string, to any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !json.Valid(text) {
		return errors.New(path + " is not JSON")
	}
	return json.Unmarshal(text, to)
}
