package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

var amd64 = ispec.Platform{OS: "linux", Architecture: "amd64"}

// tarOf makes a tar of headers; regular files hold their own names.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// madeLayout is a layout that tests write as other tools would.
type madeLayout struct {
	t    *testing.T
	path string
}

func makeLayout(t *testing.T) madeLayout {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layout")
	must(t, os.MkdirAll(filepath.Join(path, "blobs/sha256"), 0o755))
	write(t, filepath.Join(path, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	write(t, filepath.Join(path, "index.json"), `{"schemaVersion":2,"manifests":[]}`)
	return madeLayout{t, path}
}

func (l madeLayout) blob(mediaType string, content []byte) Descriptor {
	d := descriptorOf(mediaType, content)
	must(l.t, os.WriteFile(filepath.Join(l.path, "blobs/sha256", d.Digest.Encoded()), content, 0o644))
	return d
}

func (l madeLayout) json(mediaType string, v any) Descriptor {
	data, err := json.Marshal(v)
	must(l.t, err)
	return l.blob(mediaType, data)
}

// image writes an image of plain tar layers in OCI's media types or Docker's.
func (l madeLayout) image(docker bool, p ispec.Platform, layers ...[]byte) Descriptor {
	types := []string{ispec.MediaTypeImageManifest, ispec.MediaTypeImageConfig, ispec.MediaTypeImageLayer}
	if docker {
		types = []string{dockerManifest, dockerConfig, dockerLayer}
	}
	c := ispec.Image{Platform: p, RootFS: ispec.RootFS{Type: "layers"}}
	c.Config.Env = []string{"PATH=/bin", "FROM=base"}
	m := ispec.Manifest{MediaType: types[0]}
	m.SchemaVersion = 2
	for _, content := range layers {
		m.Layers = append(m.Layers, l.blob(types[2], content))
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(content))
	}
	m.Config = l.json(types[1], c)
	d := l.json(types[0], m)
	d.Platform = &p
	return d
}

func (l madeLayout) indexOf(docker bool, entries ...Descriptor) Descriptor {
	mediaType := ispec.MediaTypeImageIndex
	if docker {
		mediaType = dockerManifestList
	}
	index := ispec.Index{MediaType: mediaType, Manifests: entries}
	index.SchemaVersion = 2
	return l.json(mediaType, index)
}

// tags writes index.json.
func (l madeLayout) tags(tags map[string]Descriptor) string {
	index := ispec.Index{MediaType: ispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for name, d := range tags {
		name, _, _ = strings.Cut(name, "#")
		d.Annotations = map[string]string{ispec.AnnotationRefName: name}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	must(l.t, err)
	must(l.t, os.WriteFile(filepath.Join(l.path, "index.json"), data, 0o644))
	return l.path
}

func TestBaseFromLayout(t *testing.T) {
	ctx := context.Background()
	one, two := tarOf(t, tar.Header{Name: "one"}), tarOf(t, tar.Header{Name: "two"})
	for _, docker := range []bool{false, true} {
		l := makeLayout(t)
		d := l.image(docker, amd64, one, two)
		path := l.tags(map[string]Descriptor{"12": d})
		s := newStore(t)
		if _, err := s.Base(d.Digest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a base that was never taken in: %v", err)
		}
		resolved, err := ResolveLayout(ctx, path, "12", amd64)
		must(t, err)
		base, err := s.BaseFromLayout(ctx, path, "12", amd64)
		must(t, err)
		if base.Manifest != d.Digest || resolved.Digest != d.Digest || len(base.Layers) != 2 || base.Ref != path+":12" {
			t.Errorf("docker %v: %+v, resolved %s", docker, base, resolved.Digest)
		}
		for i, content := range [][]byte{one, two} {
			want := Layer{descriptorOf(ispec.MediaTypeImageLayer, content), digest.FromBytes(content)}
			if got := base.Layers[i]; got.Digest != want.Digest || got.MediaType != want.MediaType || got.DiffID != want.DiffID {
				t.Errorf("docker %v: layer %d is %+v, want %+v", docker, i, got, want)
			}
		}
		must(t, os.RemoveAll(path)) // its source is not needed any more
		again, err := s.Base(d.Digest)
		must(t, err)
		if again.Config.Config.Env[1] != "FROM=base" || len(again.Layers) != 2 {
			t.Errorf("found again: %+v", again)
		}
		must(t, os.Remove(s.Path(base.Layers[1].Digest)))
		if _, err := s.Base(d.Digest); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a base that lacks a layer: %v", err)
		}
		nothingInTmp(t, s)
	}
}

func TestBaseOfPlatform(t *testing.T) {
	ctx := context.Background()
	l := makeLayout(t)
	image := func(p ispec.Platform) Descriptor {
		return l.image(false, p, tarOf(t, tar.Header{Name: platformName(p)}))
	}
	arm := func(v string) ispec.Platform { return ispec.Platform{OS: "linux", Architecture: "arm", Variant: v} }
	arm64 := ispec.Platform{OS: "linux", Architecture: "arm64"}
	a64, a64v8, v5, v6, win := image(amd64), image(ispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}), image(arm("v5")), image(arm("v6")),
		image(ispec.Platform{OS: "windows", Architecture: "amd64"})
	attestation := image(ispec.Platform{OS: "unknown", Architecture: "unknown"})
	anonymous := image(arm64)
	anonymous.Platform = nil
	nested := l.indexOf(true, v5, v6)
	path := l.tags(map[string]Descriptor{
		"many":   l.indexOf(false, attestation, win, nested, a64, a64v8),
		"lone":   l.indexOf(false, anonymous),
		"direct": a64,
		"two#1":  a64, "two#2": a64v8,
	})
	for _, c := range []struct {
		tag  string
		p    ispec.Platform
		want digest.Digest
		err  string
	}{
		{"many", amd64, a64.Digest, ""},
		{"many", arm64, a64v8.Digest, ""},
		{"many", arm("v7"), v6.Digest, ""},
		{"many", arm("v5"), v5.Digest, ""},
		{"many", arm(""), v6.Digest, ""},
		{"many", ispec.Platform{OS: "linux", Architecture: "s390x"}, "",
			"there is no image for linux/s390x; there are windows/amd64, linux/arm/v5, linux/arm/v6, linux/amd64, linux/arm64/v8"},
		{"many", ispec.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"}, a64.Digest, ""}, // which runs what is for v1
		{"many", ispec.Platform{OS: "windows", Architecture: "arm64"}, "", "there is no image for windows/arm64"},
		{"lone", amd64, anonymous.Digest, ""},
		{"direct", arm64, a64.Digest, ""},
		{"two", amd64, a64.Digest, ""},
		{"two", arm64, a64v8.Digest, ""},
	} {
		d, err := ResolveLayout(ctx, path, c.tag, c.p)
		if c.err == "" && (err != nil || d.Digest != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s for %s: %s, %v", c.tag, platformName(c.p), d.Digest, err)
		}
	}
}

func TestIndexesDoNotGoOnForEver(t *testing.T) {
	l := makeLayout(t)
	d := l.indexOf(false, l.image(false, amd64))
	for range 20 {
		d = l.indexOf(false, d)
	}
	_, err := ResolveLayout(context.Background(), l.tags(map[string]Descriptor{"deep": d}), "deep", amd64)
	if err == nil || !strings.Contains(err.Error(), "indexes in each other") {
		t.Error(err)
	}
}

func TestBasesThatAreRefused(t *testing.T) {
	ctx := context.Background()
	good := tarOf(t, tar.Header{Name: "x"})
	edit := func(change func(l madeLayout, m *ispec.Manifest, c *ispec.Image)) func(madeLayout) Descriptor {
		return func(l madeLayout) Descriptor {
			c := ispec.Image{Platform: amd64, RootFS: ispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(good)}}}
			m := ispec.Manifest{MediaType: ispec.MediaTypeImageManifest, Layers: []Descriptor{l.blob(ispec.MediaTypeImageLayer, good)}}
			m.SchemaVersion = 2
			m.Config.MediaType = ispec.MediaTypeImageConfig
			change(l, &m, &c)
			mediaType := m.Config.MediaType
			m.Config = l.json(mediaType, c)
			return l.json(m.MediaType, m)
		}
	}
	layerAs := func(mediaType string) func(madeLayout) Descriptor {
		return edit(func(_ madeLayout, m *ispec.Manifest, _ *ispec.Image) { m.Layers[0].MediaType = mediaType })
	}
	for _, c := range []struct {
		name, want string
		make       func(madeLayout) Descriptor
	}{
		{"squashfs", "a base must have tar layers", layerAs("application/vnd.stacker.image.layer.squashfs+zstd+verity")},
		{"encrypted", "encrypted layers are not supported", layerAs("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")},
		{"nondistributable", "may not be distributed", layerAs("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")},
		{"foreign", "may not be distributed", layerAs("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")},
		{"no layer", "is not that of a layer", layerAs("text/plain")},
		{"artifact", "an artifact, not an image", edit(func(_ madeLayout, m *ispec.Manifest, _ *ispec.Image) {
			m.Config.MediaType = "application/vnd.oci.empty.v1+json"
		})},
		{"schema 1", "schema 1", edit(func(_ madeLayout, m *ispec.Manifest, _ *ispec.Image) { m.MediaType = dockerSchema1 + "+json" })},
		{"count", "lists 0 layers, its manifest 1", edit(func(_ madeLayout, _ *ispec.Manifest, c *ispec.Image) { c.RootFS.DiffIDs = nil })},
		{"rootfs type", "rootfs type \"mystery\"", edit(func(_ madeLayout, _ *ispec.Manifest, c *ispec.Image) { c.RootFS.Type = "mystery" })},
		{"diff id", "diff_id 1", edit(func(_ madeLayout, _ *ispec.Manifest, c *ispec.Image) { c.RootFS.DiffIDs[0] = "sha256:1" })},
		{"size", "its descriptor says 3", edit(func(_ madeLayout, m *ispec.Manifest, _ *ispec.Image) { m.Layers[0].Size = 3 })},
		{"negative size", "is negative", edit(func(_ madeLayout, m *ispec.Manifest, _ *ispec.Image) { m.Layers[0].Size = -3 })},
		{"digest", "its content's digest is", edit(func(l madeLayout, m *ispec.Manifest, _ *ispec.Image) {
			must(t, os.WriteFile(filepath.Join(l.path, "blobs/sha256", m.Layers[0].Digest.Encoded()), bytes.Repeat([]byte("?"), len(good)), 0o644))
		})},
		{"missing blob", "lacks the blob", edit(func(l madeLayout, m *ispec.Manifest, _ *ispec.Image) {
			must(t, os.Remove(filepath.Join(l.path, "blobs/sha256", m.Layers[0].Digest.Encoded())))
		})},
		{"blob is a fifo", "not a regular file", edit(func(l madeLayout, m *ispec.Manifest, _ *ispec.Image) {
			path := filepath.Join(l.path, "blobs/sha256", m.Layers[0].Digest.Encoded())
			must(t, os.Remove(path))
			must(t, unix.Mkfifo(path, 0o644))
		})},
		{"not JSON", "not JSON of a manifest", func(l madeLayout) Descriptor { return l.blob(ispec.MediaTypeImageManifest, []byte("?")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := makeLayout(t)
			path := l.tags(map[string]Descriptor{"bad": c.make(l)})
			s := newStore(t)
			_, err := s.BaseFromLayout(ctx, path, "bad", amd64)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %q", err, c.want)
			}
			nothingInTmp(t, s)
		})
	}
}

func TestLayoutsThatAreNone(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("file"), "x")
	must(t, os.Mkdir(at("empty"), 0o755))
	must(t, unix.Mkfifo(at("fifo"), 0o644))
	must(t, os.Mkdir(at("fifoinside"), 0o755))
	must(t, unix.Mkfifo(at("fifoinside/oci-layout"), 0o644))
	l := makeLayout(t)
	path := l.tags(map[string]Descriptor{"b": l.image(false, amd64), "a": l.image(true, amd64)})
	broken := makeLayout(t).path
	write(t, filepath.Join(broken, "index.json"), "{")
	none := makeLayout(t).path
	for _, c := range []struct{ path, tag, want string }{
		{at("none"), "x", "no such file"},
		{at("file"), "x", "is neither an OCI layout nor an archive of an image: "},
		{at("fifo"), "x", "it is not a folder"},
		{at("empty"), "x", "is not an OCI layout: it lacks oci-layout"},
		{at("fifoinside"), "x", "not a regular file"},
		{broken, "x", "not JSON of an index"},
		{none, "x", `has no tag "x": it has no tags`},
		{path, "c", `has no tag "c"; it has a, b`},
	} {
		_, err := ResolveLayout(ctx, c.path, c.tag, amd64)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:%s: %v, want %q", c.path, c.tag, err, c.want)
		}
	}
}
