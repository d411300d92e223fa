package oci

import (
	"errors"
	"io"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/registry"
	"github.com/layerbuild/layerbuild/registry/registrytest"
)

// impatient returns a Client that waits for no one.
func impatient(t *testing.T) *registry.Client {
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(t.TempDir(), "none"))
	return registry.New(registry.Options{Pause: time.Microsecond})
}

// take resolves ref and takes it in.
func take(t *testing.T, s *Store, r *registry.Client, ref registry.Ref) (*Base, error) {
	t.Helper()
	d, err := Resolve(t.Context(), r, ref, amd64)
	if err != nil {
		return nil, err
	}
	return s.BaseFromRegistry(t.Context(), r, ref, d.Digest, nil)
}

func TestBaseFromRegistry(t *testing.T) {
	server, s := registrytest.Serve(t, httptest.NewServer), newStore(t)
	img := registrytest.Image(t, 100_000) // with Docker's media types
	ref := registry.Ref{Name: server.Push("group/app:1", img)}
	r := impatient(t)
	var progress atomic.Int64
	d, err := Resolve(t.Context(), r, ref, amd64)
	must(t, err)
	base, err := s.BaseFromRegistry(t.Context(), r, ref, d.Digest, func(done, total int64) {
		if done == total {
			progress.Add(total)
		}
	})
	must(t, err)
	if base.Manifest != registrytest.Digest(t, img) || base.Ref != ref.Name {
		t.Errorf("got %s %s", base.Ref, base.Manifest)
	}
	layers, err := img.Layers()
	must(t, err)
	var size int64
	for i, l := range base.Layers {
		id, err := layers[i].DiffID()
		must(t, err)
		if l.Digest != registrytest.Digest(t, layers[i]) || l.DiffID.String() != id.String() || l.MediaType != ispec.MediaTypeImageLayerGzip {
			t.Errorf("layer %d: %+v", i, l)
		}
		f, err := s.OpenVerified(l.Descriptor)
		must(t, err)
		_, err = io.Copy(io.Discard, f)
		must(t, errors.Join(err, f.Close()))
		size += l.Size
	}
	if progress.Load() != size {
		t.Errorf("progress of %d bytes, want %d", progress.Load(), size)
	}
	again, err := s.Base(base.Manifest)
	must(t, err)
	if len(again.Layers) != 2 {
		t.Errorf("%+v", again)
	}

	server.Stand(nil)
	_, err = take(t, s, r, ref)
	must(t, err)
	if n := server.Count("/blobs/"); n > 0 {
		t.Errorf("%d blobs were fetched that are there", n)
	}
	if n := server.Count("GET /v2/ "); n > 0 {
		t.Errorf("logged in again")
	}
	nothingInTmp(t, s)
}

func TestResolveOfPlatform(t *testing.T) {
	server := registrytest.Serve(t, httptest.NewServer)
	platforms := []v1.Platform{
		{OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "linux", Architecture: "amd64"}, {OS: "unknown", Architecture: "unknown"},
	}
	for _, kind := range []types.MediaType{types.OCIImageIndex, types.DockerManifestList} {
		index := mutate.IndexMediaType(empty.Index, kind)
		images := map[string]digest.Digest{}
		for _, p := range platforms {
			img := registrytest.Image(t, 100)
			images[p.String()] = registrytest.Digest(t, img)
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		}
		tagged := registry.Ref{Name: server.Push("multi:1", index)}
		pinned := registry.Ref{Name: tagged.Name + "@" + registrytest.Digest(t, index).String()}
		for _, ref := range []registry.Ref{tagged, pinned} {
			for want, p := range map[string]ispec.Platform{
				"linux/arm/v7":   {OS: "linux", Architecture: "arm"},
				"linux/arm/v6":   {OS: "linux", Architecture: "arm", Variant: "v6"},
				"linux/arm64/v8": {OS: "linux", Architecture: "arm64"},
				"linux/amd64":    {OS: "linux", Architecture: "amd64"},
			} {
				d, err := Resolve(t.Context(), impatient(t), ref, p)
				if err != nil || d.Digest != images[want] {
					t.Errorf("%s: %v, %v", want, d, err)
				}
			}
			_, err := Resolve(t.Context(), impatient(t), ref, ispec.Platform{OS: "linux", Architecture: "s390x"})
			if err == nil || !strings.Contains(err.Error(), "there is no image for linux/s390x; there are linux/arm/v6, linux/arm/v7") {
				t.Error(err)
			}
		}
	}
}

// A tag that moves does not change what was resolved.
func TestTagThatMoves(t *testing.T) {
	server, s, r := registrytest.Serve(t, httptest.NewServer), newStore(t), impatient(t)
	old := registrytest.Image(t, 100)
	ref := registry.Ref{Name: server.Push("app", old)}
	d, err := Resolve(t.Context(), r, ref, amd64)
	must(t, err)
	server.Push("app", registrytest.Image(t, 100))
	base, err := s.BaseFromRegistry(t.Context(), r, ref, d.Digest, nil)
	if err != nil || base.Manifest != registrytest.Digest(t, old) {
		t.Errorf("%v, %v", base, err)
	}
	if now, err := Resolve(t.Context(), r, ref, amd64); err != nil || now.Digest == d.Digest {
		t.Errorf("%v, %v", now, err)
	}
}

// An index in a mirror, for a platform.
func TestMirrorOfIndex(t *testing.T) {
	mirror, primary := registrytest.Serve(t, httptest.NewServer), registrytest.Serve(t, httptest.NewServer)
	img := registrytest.Image(t, 100)
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	mirror.Push("copy/app:1", index)
	conf := filepath.Join(t.TempDir(), "registries.conf")
	write(t, conf, "[[registry]]\nprefix = 'team.example'\nlocation = '"+primary.Host+"/team'\n[[registry.mirror]]\nlocation = '"+mirror.Host+"/copy'\n")
	t.Setenv("CONTAINERS_REGISTRIES_CONF", conf)
	base, err := take(t, newStore(t), impatient(t), registry.Ref{Name: "docker://team.example/app:1"})
	if err != nil || base.Manifest != registrytest.Digest(t, img) || primary.Count("") > 0 {
		t.Errorf("%+v, %v, %d requests to the primary location", base, err, primary.Count(""))
	}
}
