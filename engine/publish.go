package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/history"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/registry"
)

// PublishOptions say what of an OCI layout goes where. Of the Options, they use
// what says how the images were built, so that stale ones are told.
type PublishOptions struct {
	Options
	URL      string   // docker://host/path, or oci:folder
	Tags     []string // that each image gets
	Images   []string // the layers to publish; none is all
	ShowOnly bool     // say what would be published, and publish nothing
	Force    bool     // publish what is in the layout, though it is stale

	Username, Password string // for the registry; "" takes the credentials files
	SkipTLS            bool   // allow http and unknown certificates

	Published func(Published) // is told of each image, unless nil
}

// A Published is an image that was published, or would be.
type Published struct {
	Layer       string `json:"layer"`
	Stackerfile string `json:"stackerfile"`
	Name        string `json:"name"`   // where it is now
	Digest      string `json:"digest"` // of its manifest
	There       bool   `json:"there"`  // it was there already
}

// Publish publishes the images of the layers of stackerfiles, of those that are
// named and not of their prerequisites: to repositories below a registry's URL, or
// to an OCI layout with tags of both names. Nothing is published unless every
// image is what a build would give now.
func Publish(ctx context.Context, o PublishOptions) error {
	graph, err := load(append([]string{o.Stackerfile}, o.Others...), o.Load, nil)
	if err != nil {
		return err
	}
	selected, err := o.selectLayers(graph)
	if err != nil {
		return err
	}
	layout, err := openLayout(o.OCIDir)
	if err != nil {
		return err
	}
	to, err := o.target()
	if err != nil {
		return err
	}
	jobs, err := o.jobs(layout, selected, to)
	if err != nil {
		return err
	}
	if !o.Force {
		if err := o.checkCurrent(ctx, layout, graph, jobs); err != nil {
			return err
		}
	}
	for _, job := range jobs {
		if err := o.publish(ctx, layout, graph, job, to); err != nil {
			return err
		}
	}
	return nil
}

// selectLayers returns the layers whose images are published.
func (o PublishOptions) selectLayers(graph *layers.Graph) ([]*layers.Layer, error) {
	var files []string
	for _, file := range append([]string{o.Stackerfile}, o.Others...) {
		place, err := history.Place(file)
		if err != nil {
			return nil, err
		}
		files = append(files, place)
	}
	if _, err := graph.Only(o.Images...); err != nil {
		return nil, err
	}
	var selected []*layers.Layer
	for _, l := range graph.Layers {
		wanted := slices.Contains(o.Images, l.Name)
		if wanted && l.BuildOnly {
			return nil, fmt.Errorf("layer %q is build_only: it has no image to publish", l.Name)
		}
		if wanted || len(o.Images) == 0 && !l.BuildOnly && slices.Contains(files, l.File.Path) {
			selected = append(selected, l)
		}
	}
	return selected, nil
}

// A job is one image that gets one name.
type job struct {
	l     *layers.Layer
	image oci.Tag // in the layout that it comes from
	name  string  // where it goes
}

func (o PublishOptions) jobs(layout *oci.Layout, selected []*layers.Layer, to target) ([]job, error) {
	tags, err := layout.Tags()
	if err != nil {
		return nil, err
	}
	var jobs []job
	types, err := checkTypes(o.LayerTypes)
	if err != nil {
		return nil, err
	}
	for _, l := range selected {
		for _, t := range types {
			from := typedName(l.Name, t)
			i := slices.IndexFunc(tags, func(t oci.Tag) bool { return t.Name == from })
			if i < 0 {
				return nil, staleError(l, fmt.Sprintf("%s is not in %s", from, o.OCIDir))
			}
			for _, tag := range o.Tags {
				j := job{l, tags[i], to.name(l.Name, typedName(tag, t))}
				if err := to.check(j.name); err != nil {
					return nil, err
				}
				jobs = append(jobs, j)
			}
		}
	}
	return jobs, nil
}

func staleError(l *layers.Layer, why string) error {
	return fmt.Errorf("layer needs to be rebuilt before publishing: %s: %s", l.Name, why)
}

// checkCurrent finds out whether a build would give the images that are in the
// layout: every layer is found in the cache, and composed to the same manifest.
func (o PublishOptions) checkCurrent(ctx context.Context, layout *oci.Layout, graph *layers.Graph, jobs []job) error {
	var names []string
	for _, j := range jobs {
		names = append(names, j.l.Name)
	}
	graph, err := graph.Only(names...)
	if err != nil {
		return err
	}
	reasons := &reasonSink{byLayer: map[string][]string{}}
	o.Sink, o.FailOnMiss = reasons, true
	b, err := open(ctx, o.Options, graph)
	if err != nil {
		return err
	}
	defer b.close()
	for _, l := range graph.Layers {
		err := b.layer(ctx, l)
		var miss *MissError
		if errors.As(err, &miss) || err == nil && b.layers[l].image == nil {
			why := strings.Join(reasons.byLayer[l.Name], "; ")
			if why == "" {
				why = "what it reads has changed"
			}
			return staleError(l, why)
		}
		if err != nil {
			return err
		}
	}
	for _, j := range jobs {
		there, err := layout.ReadDocument(j.image.Manifest)
		if err != nil {
			return err
		}
		same, err := sameImage(b.layers[j.l].tagged[j.image.Name].ManifestBytes, there, o.AnnotationsNamespace)
		if err != nil {
			return err
		}
		if !same {
			return staleError(j.l, "the image in "+o.OCIDir+" is of another build")
		}
	}
	return nil
}

func (o PublishOptions) publish(ctx context.Context, layout *oci.Layout, graph *layers.Graph, j job, to target) (err error) {
	published := Published{Layer: j.l.Name, Stackerfile: j.l.File.Name, Name: j.name, Digest: string(j.image.Manifest.Digest)}
	if o.Published != nil {
		defer func() {
			if err == nil {
				o.Published(published)
			}
		}()
	}
	if o.ShowOnly {
		o.say("would publish: %s %s to %s", j.l.File.Name, j.l.Name, j.name)
		return nil
	}
	start := time.Now()
	o.say("publishing %s %s to %s", j.l.File.Name, j.l.Name, j.name)
	there, err := to.push(ctx, layout, j.image.Manifest, j.name, registryBases(graph, j.l))
	switch {
	case errors.Is(err, oci.ErrCorrupt):
		return fmt.Errorf("publishing %s: %w: it was put aside: build again", j.l.Name, err)
	case err != nil:
		return fmt.Errorf("publishing %s: %w", j.l.Name, err)
	case there:
		published.There = true
		o.say("%s is there already", j.name)
	default:
		o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Summary, Text: "published " + j.name, Took: time.Since(start)})
	}
	return nil
}

func (o PublishOptions) say(format string, args ...any) {
	o.Sink.Report(progress.Event{Time: time.Now(), Kind: progress.Notice, Text: fmt.Sprintf(format, args...)})
}

// registryBases are the images in registries that a layer starts from, in the end.
func registryBases(graph *layers.Graph, l *layers.Layer) []string {
	for l != nil && l.From.Type == layers.BaseBuilt {
		l = graph.Layer(l.From.Tag)
	}
	if l != nil && l.From.Type == layers.BaseDocker {
		return []string{l.From.URL}
	}
	return nil
}

// A target is where images are published to.
type target interface {
	name(layer, tag string) string
	check(name string) error
	// push makes a name stand for an image, and reports whether it did so before.
	push(ctx context.Context, from *oci.Layout, manifest oci.Descriptor, name string, bases []string) (there bool, err error)
}

func (o PublishOptions) target() (target, error) {
	switch {
	case len(o.Tags) == 0:
		return nil, errors.New("there is no tag to publish to: give --tag")
	case (o.Username == "") != (o.Password == ""):
		return nil, errors.New("give both --username and --password, or none")
	case strings.HasPrefix(o.URL, "docker://"):
		client := registry.New(registry.Options{Username: o.Username, Password: o.Password, Allow: "--skip-tls"})
		return &registryTarget{strings.TrimRight(o.URL, "/"), client, o.SkipTLS}, nil
	case strings.HasPrefix(o.URL, "oci:"):
		path, err := filepath.Abs(strings.TrimPrefix(o.URL, "oci:"))
		return &layoutTarget{url: o.URL, path: path}, err
	}
	return nil, fmt.Errorf("--url is %q: it should be docker://host/path or oci:folder", o.URL)
}

type registryTarget struct {
	url      string
	client   *registry.Client
	insecure bool
}

func (t *registryTarget) name(layer, tag string) string { return t.url + "/" + layer + ":" + tag }

func (t *registryTarget) check(name string) error {
	_, _, err := t.client.Repository(t.ref(name), registry.Push)
	return err
}

func (t *registryTarget) ref(name string) registry.Ref {
	return registry.Ref{Name: name, Insecure: t.insecure}
}

func (t *registryTarget) push(ctx context.Context, from *oci.Layout, manifest oci.Descriptor, name string, bases []string) (bool, error) {
	return from.Push(ctx, t.client, manifest, t.ref(name), bases...)
}

type layoutTarget struct{ url, path string }

func (t *layoutTarget) name(layer, tag string) string { return t.url + ":" + layer + "_" + tag }
func (t *layoutTarget) check(string) error            { return nil }

func (t *layoutTarget) push(ctx context.Context, from *oci.Layout, manifest oci.Descriptor, name string, _ []string) (bool, error) {
	to, err := oci.CreateLayout(t.path)
	if err != nil {
		return false, err
	}
	tag := strings.TrimPrefix(name, t.url+":")
	if there, err := to.Has(tag, manifest.Digest); err != nil || there {
		return there, err
	}
	image, err := from.Image(manifest)
	if err != nil {
		return false, err
	}
	return false, to.Put(ctx, from, map[string]*oci.Image{tag: image})
}
