// Package plan computes what the steps of a build are, without doing any.
package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// recipeKind separates recipes from the keys of steps, which they never are.
const recipeKind buildcache.Kind = "recipe"

// Contents finds out what a recipe needs to know of the world outside of stackerfiles.
type Contents interface {
	// Tree returns the digest of a file or folder of this machine as a layer reads it.
	Tree(ctx context.Context, from layers.Source, how Reading) (digest.Digest, error)
	// Image returns the digest of the manifest that a layer's base stands for.
	Image(ctx context.Context, l *layers.Layer) (digest.Digest, error)
}

// A Reading says what of a file or folder a layer reads.
type Reading struct {
	Normalize   string   // as of layers.Import
	Ignore      []string // likewise
	IgnoreFiles bool     // files in the folder say what else is ignored
}

// A Recipes computes recipes: names of what layers give, that are known before any
// record is. A recipe is the sha256 of a layer's own inputs and of the recipes of the
// layers that it is built from. It depends on neither the machine nor the user, and no
// part of it stands for a secret. Two layers of one recipe are likely to have the same
// keys; that is all it promises.
type Recipes struct {
	Contents Contents
	Environ  []string // what layers may let in of the environment
	Settings []string // what else decides results: options of the build, versions

	known map[*layers.Layer]buildcache.Key
}

var errNoRecipe = errors.New("no recipe")

// Of returns the recipe of a layer of the graph. A layer has none, which is an error, if
// it or one that it is built from reads what nobody watches, or what is not to be had.
func (r *Recipes) Of(ctx context.Context, g *layers.Graph, l *layers.Layer) (buildcache.Key, error) {
	if r.known == nil {
		r.known = map[*layers.Layer]buildcache.Key{}
	}
	if known, ok := r.known[l]; ok {
		if known == "" {
			return "", errNoRecipe
		}
		return known, nil
	}
	in, err := r.inputs(ctx, g, l)
	if err != nil {
		r.known[l] = ""
		return "", err
	}
	r.known[l] = in.WithoutSecrets(g.Secrets).Key(recipeKind)
	return r.known[l], nil
}

func (r *Recipes) inputs(ctx context.Context, g *layers.Graph, l *layers.Layer) (buildcache.Inputs, error) {
	in := buildcache.Inputs{}
	in.Add(buildcache.Format, "settings", strings.Join(r.Settings, "\n"))
	in.Add(buildcache.Platform, "platform", l.OS+"/"+l.Arch)
	base, err := r.base(ctx, g, l)
	if err != nil {
		return nil, err
	}
	in.Add(buildcache.BaseChange, "base", base)
	for i, dir := range l.OverlayDirs {
		tree, err := r.Contents.Tree(ctx, layers.Source{Raw: dir.Raw, Path: dir.Source, Content: true}, Reading{Normalize: l.File.Normalize})
		if err != nil {
			return nil, err
		}
		in.Add(buildcache.Overlay, fmt.Sprintf("overlay %d %s", i, dir.Dest), string(tree))
	}
	for i, imp := range l.Imports {
		text, err := r.imported(ctx, g, imp)
		if err != nil {
			return nil, err
		}
		in.Add(buildcache.Import, "import "+strconv.Itoa(i), text)
	}
	return in, r.addScripts(ctx, &in, l)
}

// addScripts adds what the layer runs, and what that sees besides files.
func (r *Recipes) addScripts(ctx context.Context, in *buildcache.Inputs, l *layers.Layer) error {
	if l.Run == "" && l.GenerateLabels == "" {
		return nil
	}
	in.Add(buildcache.Definition, "run", l.Run)
	in.Add(buildcache.Definition, "generate_labels", l.GenerateLabels)
	in.Add(buildcache.Definition, "network", l.Network)
	for _, v := range l.BuildEnvironment(r.Environ, nil) {
		if v.Keyed {
			in.Add(buildcache.Env, "env "+v.Name, v.Value)
		}
	}
	for i, bind := range l.Binds {
		if !bind.Track {
			return errNoRecipe
		}
		tree, err := r.Contents.Tree(ctx, layers.Source{Raw: bind.Source, Path: bind.Source}, Reading{})
		if err != nil {
			return err
		}
		in.Add(buildcache.Bind, fmt.Sprintf("bind %d %s", i, bind.Dest), string(tree))
	}
	return nil
}

// base returns what a layer starts from: what an image or file is, and the recipe of a
// layer.
func (r *Recipes) base(ctx context.Context, g *layers.Graph, l *layers.Layer) (string, error) {
	switch l.From.Type {
	case layers.BaseScratch:
		return "", nil
	case layers.BaseBuilt:
		recipe, err := r.Of(ctx, g, g.Layer(l.From.Tag))
		return "layer " + string(recipe), err
	case layers.BaseTar:
		return r.source(ctx, g, l.From.Source, "", Reading{})
	}
	image, err := r.Contents.Image(ctx, l)
	return "image " + string(image), err
}

// imported spells out an import: what it is, and what becomes of it.
func (r *Recipes) imported(ctx context.Context, g *layers.Graph, imp layers.Import) (string, error) {
	how := Reading{Normalize: imp.Normalize, Ignore: imp.Ignore, IgnoreFiles: true}
	source, err := r.source(ctx, g, imp.Source, imp.Hash, how)
	if err != nil {
		return "", err
	}
	imp.Pos, imp.Source, imp.Hash = layers.Position{}, layers.Source{Raw: source, Content: imp.Source.Content}, ""
	text, err := json.Marshal(imp)
	return string(text), err
}

// source returns what a source is: a tree, a path in the layer of a recipe, or a URL and
// the hash that is demanded of it.
func (r *Recipes) source(ctx context.Context, g *layers.Graph, from layers.Source, hash string, how Reading) (string, error) {
	switch from.Scheme {
	case layers.SchemeLocal:
		tree, err := r.Contents.Tree(ctx, from, how)
		return "tree " + string(tree), err
	case layers.SchemeStacker:
		recipe, err := r.Of(ctx, g, g.Layer(from.Layer))
		return fmt.Sprintf("path %q of %s", from.Path, recipe), err
	}
	return fmt.Sprintf("url %q %s", from.Raw, hash), nil
}
