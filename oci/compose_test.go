package oci

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func layerNamed(name string) Layer {
	return Layer{Descriptor{MediaType: ispec.MediaTypeImageLayerGzip, Digest: digest.FromString(name), Size: int64(len(name))}, digest.FromString(name + " tar")}
}

// fullBase is a base with all that a config can say.
func fullBase() *Base {
	then := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	c := ispec.Image{Created: &then, Author: "someone", Platform: ispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}}
	c.Config = ispec.ImageConfig{
		User: "nobody", Env: []string{"B=base", "PATH=/base", "A=base", "B=twice"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve"},
		WorkingDir: "/srv", Labels: map[string]string{"from": "base", "kept": "yes"}, Volumes: map[string]struct{}{"/data": {}},
		ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT",
	}
	c.History = []ispec.History{{Created: &then, CreatedBy: "debootstrap"}, {CreatedBy: "CMD", EmptyLayer: true}}
	return &Base{Config: c, Layers: []Layer{layerNamed("base")}}
}

func TestComposeGolden(t *testing.T) {
	spec := ImageSpec{
		Base: fullBase(), Author: "layerbuild", Epoch: epoch.In(time.FixedZone("somewhere", 3600)),
		Layers:      []SpecLayer{{layerNamed("web"), "layerbuild: layer web: run"}, {Layer{}, "layerbuild: layer site: run"}},
		Environment: map[string]string{"Z": "new", "B": "set", "C": "new <&>"},
		Labels:      map[string]string{"from": "layer"}, Annotations: map[string]string{"note": "text"},
		Volumes: []string{"/more"}, WorkingDir: "/app", RuntimeUser: "1000:1000", Cmd: []string{"run"},
	}
	image, err := Compose(spec)
	must(t, err)
	again, err := Compose(spec)
	must(t, err)
	if !bytes.Equal(image.ManifestBytes, again.ManifestBytes) || !bytes.Equal(image.ConfigBytes, again.ConfigBytes) {
		t.Error("composed twice, they differ")
	}
	for name, got := range map[string][]byte{"config.json": image.ConfigBytes, "manifest.json": image.ManifestBytes} {
		path := filepath.Join("testdata", name)
		if *update {
			must(t, os.WriteFile(path, got, 0o644))
		}
		want, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	if !reflect.DeepEqual(spec.Base, fullBase()) {
		t.Error("the base was changed")
	}
}

func TestCommands(t *testing.T) {
	for name, c := range map[string]struct {
		spec                ImageSpec
		entrypoint, command string
	}{
		"nothing":               {ImageSpec{}, "/entry", "serve"},
		"cmd":                   {ImageSpec{Cmd: []string{"c"}}, "/entry", "c"},
		"entrypoint":            {ImageSpec{Entrypoint: []string{"e"}}, "e", ""},
		"both":                  {ImageSpec{Entrypoint: []string{"e"}, Cmd: []string{"c"}}, "e", "c"},
		"full command":          {ImageSpec{FullCommand: []string{"f", "x"}}, "f x", ""},
		"all":                   {ImageSpec{FullCommand: []string{"f"}, Entrypoint: []string{"e"}, Cmd: []string{"c"}}, "f", ""},
		"emptied on purpose":    {ImageSpec{Cmd: []string{}}, "/entry", ""},
		"entrypoint is emptied": {ImageSpec{Entrypoint: []string{}}, "", ""},
	} {
		c.spec.Base = fullBase()
		image, err := Compose(c.spec)
		must(t, err)
		var got ispec.Image
		must(t, json.Unmarshal(image.ConfigBytes, &got))
		if e, cmd := strings.Join(got.Config.Entrypoint, " "), strings.Join(got.Config.Cmd, " "); e != c.entrypoint || cmd != c.command {
			t.Errorf("%s: entrypoint %q, cmd %q, want %q, %q", name, e, cmd, c.entrypoint, c.command)
		}
	}
}

func TestComposeFromScratch(t *testing.T) {
	image, err := Compose(ImageSpec{OS: "linux", Arch: "riscv64", Epoch: epoch})
	must(t, err)
	var m map[string]any
	must(t, json.Unmarshal(image.ManifestBytes, &m))
	if layers, ok := m["layers"].([]any); !ok || len(layers) != 0 {
		t.Errorf("layers: %v", m["layers"])
	}
	c := image.Base().Config
	if c.Architecture != "riscv64" || !slices.Equal(c.Config.Env, []string{"PATH=" + DefaultPath}) {
		t.Errorf("%+v", c)
	}
}

func TestAnotherArchitectureDropsTheVariant(t *testing.T) {
	for arch, want := range map[string]string{"": "v6", "arm": "v6", "arm64": ""} {
		image, err := Compose(ImageSpec{Base: fullBase(), Arch: arch})
		must(t, err)
		if got := image.Base().Config.Variant; got != want {
			t.Errorf("arch %q: variant %q, want %q", arch, got, want)
		}
	}
}

func TestVariantIsNamed(t *testing.T) {
	image, err := Compose(ImageSpec{Base: fullBase(), Arch: "arm", Variant: "v7"})
	must(t, err)
	if got := image.Base().Config; got.Architecture != "arm" || got.Variant != "v7" {
		t.Errorf("%s/%s", got.Architecture, got.Variant)
	}
}

// A chain of built layers: history and layers go on where the parent's ended,
// and a base that says nothing of its layers is made whole.
func TestChainsContinue(t *testing.T) {
	base := &Base{Layers: []Layer{layerNamed("one"), layerNamed("two")}}
	base.Config.History = []ispec.History{{CreatedBy: "two"}}
	for _, name := range []string{"a", "b", "c"} {
		image, err := Compose(ImageSpec{Base: base, Layers: []SpecLayer{{layerNamed(name), "run " + name}}, Epoch: epoch})
		must(t, err)
		base = image.Base()
	}
	var made []string
	for _, h := range base.Config.History {
		made = append(made, h.CreatedBy)
	}
	if got := strings.Join(made, ","); got != ",two,run a,run b,run c" || len(base.Layers) != 5 || len(base.Config.RootFS.DiffIDs) != 5 {
		t.Errorf("history %q, %d layers, %d diff_ids", got, len(base.Layers), len(base.Config.RootFS.DiffIDs))
	}
}

// A base whose history names more layers than it has, as squashed ones do.
func TestHistoryLongerThanLayers(t *testing.T) {
	base := &Base{Layers: []Layer{layerNamed("two")}}
	base.Config.History = []ispec.History{{CreatedBy: "one"}, {CreatedBy: "ENV", EmptyLayer: true}, {CreatedBy: "two"}}
	image, err := Compose(ImageSpec{Base: base, Layers: []SpecLayer{{layerNamed("a"), "run"}}, Epoch: epoch})
	must(t, err)
	var filled []string
	for _, h := range image.Base().Config.History {
		if !h.EmptyLayer {
			filled = append(filled, h.CreatedBy)
		}
	}
	if !slices.Equal(filled, []string{"two", "run"}) {
		t.Errorf("%q", filled)
	}
	if base.Config.History[0].EmptyLayer {
		t.Error("the base's own history is changed")
	}
}

// What Docker's configuration has beyond OCI's goes from image to image, but for
// triggers, and an image without it has OCI's configuration byte for byte.
func TestDockerConfig(t *testing.T) {
	check := &dockerspec.HealthcheckConfig{Test: []string{"CMD", "true"}, Interval: time.Second}
	below, err := Compose(ImageSpec{Epoch: epoch, StopSignal: "SIGQUIT", Expose: []string{"80/tcp"},
		Docker: DockerConfig{Healthcheck: check, Shell: []string{"/bin/ash", "-c"}, OnBuild: []string{"RUN a"}}})
	must(t, err)
	if got := string(below.ConfigBytes); !strings.Contains(got, `"StopSignal":"SIGQUIT","Healthcheck":{"Test":["CMD","true"],"Interval":1000000000},"OnBuild":["RUN a"],"Shell":["/bin/ash","-c"]}`) {
		t.Error(got)
	}
	above, err := Compose(ImageSpec{Epoch: epoch, Base: below.Base(), Expose: []string{"81/udp"}, Docker: DockerConfig{Shell: []string{"/bin/bash"}}})
	must(t, err)
	config, docker, err := unmarshalConfig(above.ConfigBytes)
	must(t, err)
	if !reflect.DeepEqual(docker, DockerConfig{Healthcheck: check, Shell: []string{"/bin/bash"}}) || len(config.Config.ExposedPorts) != 2 || config.Config.StopSignal != "SIGQUIT" {
		t.Errorf("%+v %+v", docker, config.Config)
	}
	plain, err := Compose(ImageSpec{Base: fullBase(), Epoch: epoch})
	must(t, err)
	want, err := json.Marshal(plain.config)
	must(t, err)
	if string(plain.ConfigBytes) != string(want) {
		t.Errorf("got  %s\nwant %s", plain.ConfigBytes, want)
	}
}

// A layer of which only the DiffID is known makes a config but no manifest.
func TestComposeUnpackedLayers(t *testing.T) {
	l := layerNamed("x")
	image, err := Compose(ImageSpec{Layers: []SpecLayer{{Layer{DiffID: l.DiffID}, "run"}}})
	must(t, err)
	if image.ManifestBytes != nil || image.Manifest.Digest != "" || len(image.Base().Layers) != 1 {
		t.Errorf("%+v", image)
	}
}

// What others could not read is not composed.
func TestComposeTooLarge(t *testing.T) {
	half := strings.Repeat("x", maxComposed/2)
	for want, spec := range map[string]ImageSpec{
		"the image's config would have":   {Labels: map[string]string{"a": half, "b": half}},
		"the image's manifest would have": {Annotations: map[string]string{"a": half, "b": half}},
	} {
		if _, err := Compose(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := Compose(ImageSpec{Labels: map[string]string{"a": half}, Annotations: map[string]string{"a": half}}); err != nil {
		t.Error(err)
	}
}
