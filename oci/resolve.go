package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxIndexDepth and maxIndexEntries bound what is read to find one platform's
// manifest, so that no index can keep a build busy.
const (
	maxIndexDepth   = 8
	maxIndexEntries = 1000
)

// resolve finds the manifest of a platform's image below some descriptors that
// bear one name. Descriptors of indexes are followed, also nested ones. A
// manifest that is named directly is taken whatever its platform: only an index
// gives a choice, as in skopeo and podman.
func resolve(ctx context.Context, src source, roots []Descriptor, p ispec.Platform) (Descriptor, error) {
	if len(roots) == 1 && !isIndex(roots[0].MediaType) {
		return roots[0], nil
	}
	var found []Descriptor
	for _, root := range roots {
		var err error
		if found, err = manifestsBelow(ctx, src, root, 0, found); err != nil {
			return Descriptor{}, err
		}
	}
	return choose(found, p)
}

func isIndex(mediaType string) bool {
	return mediaType == ispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

func isManifest(mediaType string) bool {
	return mediaType == ispec.MediaTypeImageManifest || mediaType == dockerManifest
}

// manifestsBelow appends the manifests of images that d stands for, in order. An
// entry without a platform has that of the index it stands in.
func manifestsBelow(ctx context.Context, src source, d Descriptor, depth int, found []Descriptor) ([]Descriptor, error) {
	if isManifest(d.MediaType) {
		return append(found, d), nil
	}
	if !isIndex(d.MediaType) {
		return found, nil
	}
	if depth == maxIndexDepth {
		return nil, fmt.Errorf("index %s: more than %d indexes in each other", d.Digest, maxIndexDepth)
	}
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	data, err := checkedDocument(ctx, src, d)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	var index ispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index %s is not JSON of an index: %w", d.Digest, err)
	}
	for _, entry := range index.Manifests {
		if entry.Platform == nil {
			entry.Platform = d.Platform
		}
		if found, err = manifestsBelow(ctx, src, entry, depth+1, found); err != nil {
			return nil, err
		}
		if len(found) > maxIndexEntries {
			return nil, fmt.Errorf("index %s has more than %d manifests", d.Digest, maxIndexEntries)
		}
	}
	return found, nil
}

// choose takes the manifest that fits a platform best; of equal ones the first,
// as the image spec's index.md says. Without any match a lone manifest that
// names no platform is taken.
func choose(found []Descriptor, p ispec.Platform) (Descriptor, error) {
	if len(found) == 0 {
		return Descriptor{}, errors.New("its index names no image")
	}
	best, bestRank := Descriptor{}, 0
	var anonymous []Descriptor
	for _, d := range found {
		if d.Platform == nil {
			anonymous = append(anonymous, d)
		} else if r := rank(*d.Platform, p); r > bestRank {
			best, bestRank = d, r
		}
	}
	if bestRank > 0 {
		return best, nil
	}
	if anonymous = distinct(anonymous); len(anonymous) == 1 {
		return anonymous[0], nil
	} else if len(anonymous) > 1 {
		return Descriptor{}, fmt.Errorf("%d images have that name and say no platform; name one by its digest", len(anonymous))
	}
	return Descriptor{}, fmt.Errorf("there is no image for %s; there are %s", platformName(p), platformNames(found))
}

// rank returns how well an image's platform serves the wanted one; 0 is not at all.
// A processor runs what its lesser variants run: arm v7 runs v6 and v5.
func rank(has, want ispec.Platform) int {
	if has.OS != want.OS || has.Architecture != want.Architecture {
		return 0
	}
	h, w := variant(has), variant(want)
	switch {
	case h == w:
		return 100
	case len(h) == 2 && len(w) == 2 && h[0] == 'v' && w[0] == 'v' && h < w:
		return int(h[1] - '0')
	}
	return 0
}

// variant returns a platform's variant, spelled out where the architecture has a
// usual one.
func variant(p ispec.Platform) string {
	if p.Variant != "" {
		if p.Architecture == "arm64" && p.Variant == "8" || p.Architecture == "arm" && len(p.Variant) == 1 {
			return "v" + p.Variant
		}
		return p.Variant
	}
	switch p.Architecture {
	case "arm64":
		return "v8"
	case "arm":
		return "v7"
	case "amd64":
		return "v1"
	}
	return ""
}

func platformName(p ispec.Platform) string {
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return name
}

// platformNames lists the platforms of images; attestations, which pose as an
// image of an unknown platform, are left out.
func platformNames(found []Descriptor) string {
	var names []string
	seen := map[string]bool{"unknown/unknown": true}
	for _, d := range found {
		if d.Platform == nil {
			continue
		}
		if name := platformName(*d.Platform); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
