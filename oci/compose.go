package oci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DefaultPath is the PATH of an image whose base and stackerfile set none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// An ImageSpec is all that decides an image besides its blobs. The directives
// are those of a stackerfile; what is nil or empty is inherited from the base.
type ImageSpec struct {
	Base    *Base       // nil: from scratch. Image.Base for a `built` base
	Layers  []SpecLayer // on top of the base's, lowest first
	OS      string      // the base's when empty, this machine's from scratch
	Arch    string
	Variant string // of Arch; the base's when empty, if that has the same Arch
	Author  string
	Epoch   time.Time // the image's own times

	Environment map[string]string
	Labels      map[string]string
	Annotations map[string]string // the manifest's; a base's are not inherited
	Volumes     []string
	Expose      []string // PORT/PROTOCOL each
	WorkingDir  string
	RuntimeUser string
	StopSignal  string
	Docker      DockerConfig // Healthcheck and Shell are inherited, OnBuild is not
	Cmd         []string     // nil when missing
	Entrypoint  []string     // nil when missing; clears an inherited cmd, as in a Dockerfile
	FullCommand []string     // nil when missing; becomes the entrypoint, and cmd is cleared
}

// A SpecLayer is a layer of an image to be, and its entry in the history. A zero
// Layer is a step that changed no file: it has an entry only. One with nothing
// but a DiffID was not packed.
type SpecLayer struct {
	Layer
	CreatedBy string
}

// An Image is a composed image: its two documents and the layers they name. They
// are missing while a layer of it is not packed.
type Image struct {
	Manifest      Descriptor
	ManifestBytes []byte
	Config        Descriptor
	ConfigBytes   []byte
	Layers        []Layer // all, the base's included

	config ispec.Image
	docker DockerConfig
}

// Base returns the image as what a `built` layer starts from.
func (i *Image) Base() *Base {
	return &Base{Manifest: i.Manifest.Digest, Config: i.config, Docker: i.docker, Layers: i.Layers}
}

// Compose makes an image's config and manifest. It is pure: equal specs give
// equal bytes. The base's layers and history come first, as they are.
func Compose(spec ImageSpec) (*Image, error) {
	image := &Image{config: inherited(spec.Base), docker: docker(spec)}
	c := &image.config
	if spec.OS != "" {
		c.OS = spec.OS
	}
	if spec.Arch != "" && (spec.Arch != c.Architecture || spec.Variant != "") {
		c.Architecture, c.Variant = spec.Arch, spec.Variant
	}
	epoch := spec.Epoch.UTC()
	c.Created, c.Author = &epoch, spec.Author
	direct(&c.Config, spec)

	var layers []Layer
	if spec.Base != nil {
		layers = spec.Base.Layers
	}
	image.Layers = slices.Clone(layers)
	for _, l := range spec.Layers {
		empty := l.DiffID == ""
		c.History = append(c.History, ispec.History{Created: &epoch, CreatedBy: l.CreatedBy, Author: spec.Author, EmptyLayer: empty})
		if !empty {
			image.Layers = append(image.Layers, l.Layer)
		}
	}
	c.RootFS = ispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	packed := true
	for _, l := range image.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
		packed = packed && l.Digest != ""
	}
	if !packed {
		return image, nil
	}
	return image, image.write(spec.Annotations)
}

// write makes the image's two documents. All its layers have been packed.
func (i *Image) write(annotations map[string]string) (err error) {
	if i.ConfigBytes, err = marshalConfig(i.config, i.docker); err != nil {
		return fmt.Errorf("composing an image: %w", err)
	}
	i.Config = descriptorOf(ispec.MediaTypeImageConfig, i.ConfigBytes)
	m := ispec.Manifest{MediaType: ispec.MediaTypeImageManifest, Config: i.Config, Layers: []Descriptor{}, Annotations: annotations}
	m.SchemaVersion = 2
	for _, l := range i.Layers {
		m.Layers = append(m.Layers, l.Descriptor)
	}
	if i.ManifestBytes, err = json.Marshal(m); err != nil {
		return fmt.Errorf("composing an image: %w", err)
	}
	i.Manifest = descriptorOf(ispec.MediaTypeImageManifest, i.ManifestBytes)
	if i.Config.Size > maxComposed {
		return tooLarge("config", i.Config.Size, "labels, environment and history")
	}
	if i.Manifest.Size > maxComposed {
		return tooLarge("manifest", i.Manifest.Size, "annotations")
	}
	return nil
}

// maxComposed bounds the config and the manifest of an image, which registries and other
// programs read into memory: containerd and podman take 4 MiB at most.
const maxComposed = 4 << 20

func tooLarge(what string, size int64, has string) error {
	return fmt.Errorf("the image's %s would have %d bytes, and others read %d at most: its %s are too large", what, size, maxComposed, has)
}

// inherited returns a copy of a base's config that may be changed.
func inherited(base *Base) ispec.Image {
	if base == nil {
		return ispec.Image{Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	}
	c := base.Config
	c.Config.Env = slices.Clone(c.Config.Env)
	c.Config.Labels = maps.Clone(c.Config.Labels)
	c.Config.Volumes = maps.Clone(c.Config.Volumes)
	c.Config.ExposedPorts = maps.Clone(c.Config.ExposedPorts)
	c.History = history(base)
	return c
}

// history returns a base's history with one entry a layer, which the image spec asks
// for. Where a base has fewer of them or more, those of its last layers are taken to be
// right.
func history(base *Base) (entries []ispec.History) {
	missing := len(base.Layers)
	for _, h := range base.Config.History {
		if !h.EmptyLayer {
			missing--
		}
	}
	for range missing {
		entries = append(entries, ispec.History{Comment: "a layer of the base, which has no history of it"})
	}
	for _, h := range base.Config.History {
		if !h.EmptyLayer && missing < 0 {
			h.EmptyLayer = true
			missing++
		}
		entries = append(entries, h)
	}
	return entries
}

// docker returns what the image has of Docker's own. The triggers of a base are
// not inherited: they are for the image that is built on it, which is this one.
func docker(spec ImageSpec) DockerConfig {
	c := spec.Docker
	if spec.Base == nil {
		return c
	}
	was := spec.Base.Docker
	c.StopTimeout = cmp.Or(c.StopTimeout, was.StopTimeout)
	c.Healthcheck = cmp.Or(c.Healthcheck, was.Healthcheck)
	if c.Shell == nil {
		c.Shell = was.Shell
	}
	return c
}

// direct applies the directives of a stackerfile to a config.
func direct(c *ispec.ImageConfig, spec ImageSpec) {
	c.Env = environment(c.Env, spec.Environment)
	for name, value := range spec.Labels {
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[name] = value
	}
	for _, v := range spec.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[v] = struct{}{}
	}
	for _, port := range spec.Expose {
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		c.ExposedPorts[port] = struct{}{}
	}
	c.StopSignal = cmp.Or(spec.StopSignal, c.StopSignal)
	if spec.WorkingDir != "" {
		c.WorkingDir = spec.WorkingDir
	}
	if spec.RuntimeUser != "" {
		c.User = spec.RuntimeUser
	}
	if spec.Entrypoint != nil {
		c.Entrypoint, c.Cmd = spec.Entrypoint, nil
	}
	if spec.Cmd != nil {
		c.Cmd = spec.Cmd
	}
	if spec.FullCommand != nil {
		c.Entrypoint, c.Cmd = spec.FullCommand, nil
	}
}

// environment sets variables: those that are there stay where they are, new ones
// follow sorted by name. A PATH is always there.
func environment(env []string, set map[string]string) []string {
	var out []string
	at := map[string]int{}
	put := func(name, entry string) {
		if i, ok := at[name]; ok {
			out[i] = entry
			return
		}
		at[name] = len(out)
		out = append(out, entry)
	}
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		put(name, entry)
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		put(name, name+"="+set[name])
	}
	if _, ok := at["PATH"]; !ok {
		put("PATH", "PATH="+DefaultPath)
	}
	return out
}
