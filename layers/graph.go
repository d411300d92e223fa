package layers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// link makes the Graph of files, which stand after their prerequisites. Unless
// incomplete, what a layer needs must be in its file or in the prerequisites of it.
func link(files []*Stackerfile, incomplete bool, errs *Errors) *Graph {
	k := linker{
		errs:       errs,
		incomplete: incomplete,
		visible:    visibility(files),
		references: map[*Layer][]reference{},
		state:      map[*Layer]state{},
		graph:      &Graph{Files: files, byName: map[string]*Layer{}, needs: map[*Layer][]*Layer{}},
	}
	for _, file := range files {
		for _, l := range file.Layers {
			if first := k.graph.byName[l.Name]; first != nil {
				errs.add(l.Pos, l.Name, "duplicate layer name: the other one is at %s%s", first.Pos, difference(first, l))
				continue
			}
			k.graph.byName[l.Name] = l
		}
	}
	for _, file := range files {
		for _, l := range file.Layers {
			k.refer(l)
		}
	}
	for _, file := range files {
		for _, l := range file.Layers {
			k.visit(l)
		}
	}
	writers := k.graph.writers()
	k.graph.sortNeeds(func(l *Layer, add func(*Layer)) {
		for _, r := range k.references[l] {
			add(r.to)
		}
		for _, writer := range writers[l] {
			add(writer)
		}
	})
	return k.graph
}

// visibility tells of each file which files' layers its own may name.
func visibility(files []*Stackerfile) map[*Stackerfile]map[*Stackerfile]bool {
	byPath := map[string]*Stackerfile{}
	visible := map[*Stackerfile]map[*Stackerfile]bool{}
	for _, file := range files {
		byPath[file.Path] = file
		visible[file] = map[*Stackerfile]bool{file: true}
		for _, path := range file.Prerequisites {
			for v := range visible[byPath[path]] {
				visible[file][v] = true
			}
		}
	}
	return visible
}

type linker struct {
	errs       *Errors
	incomplete bool
	visible    map[*Stackerfile]map[*Stackerfile]bool
	references map[*Layer][]reference
	state      map[*Layer]state
	path       []*Layer // from the layer being visited outward
	graph      *Graph
}

// A reference is where a layer names another.
type reference struct {
	to  *Layer
	pos Position
}

type state int

const (
	open state = iota + 1
	done
)

// refer finds the layers that l names.
func (k *linker) refer(l *Layer) {
	if l.From.Type == BaseBuilt {
		k.add(l, l.From.Tag, l.From.Pos)
	}
	k.add(l, l.From.Source.Layer, l.From.Pos)
	for _, i := range l.Imports {
		k.add(l, i.Source.Layer, i.Pos)
	}
}

func (k *linker) add(l *Layer, name string, pos Position) {
	to := k.graph.byName[name]
	switch {
	case name == "":
	case to != nil && k.visible[l.File][to.File]:
		k.references[l] = append(k.references[l], reference{to, pos})
	case k.incomplete || k.errs.full():
	case to != nil:
		k.errs.add(pos, l.Name, "layer %s is in %s: add that file to config: prerequisites", quote(name), plain(to.File.Name))
	default:
		hint := DidYouMean(name, k.namesFor(l))
		if hint == "" {
			hint = ": declare it here or in a prerequisite"
		}
		k.errs.add(pos, l.Name, "there is no layer %s%s", quote(name), hint)
	}
}

func (k *linker) namesFor(l *Layer) []string {
	var names []string
	for _, file := range k.graph.Files {
		if k.visible[l.File][file] {
			for _, other := range file.Layers {
				names = append(names, other.Name)
			}
		}
	}
	return names
}

// visit appends l to the graph's layers after all that it needs.
func (k *linker) visit(l *Layer) {
	if k.state[l] != 0 {
		return
	}
	k.state[l] = open
	k.path = append(k.path, l)
	for _, r := range k.references[l] {
		if k.state[r.to] == open {
			k.cycle(r.to)
		}
		k.visit(r.to)
	}
	k.path = k.path[:len(k.path)-1]
	k.state[l] = done
	k.graph.Layers = append(k.graph.Layers, l)
}

// cycle reports the cycle from l to the end of k.path and back to l, where l names the
// next layer of it.
func (k *linker) cycle(l *Layer) {
	chain := append(slices.Clone(k.path[slices.Index(k.path, l):]), l)
	names := make([]string, len(chain))
	for i, c := range chain {
		names[i] = plain(c.Name)
	}
	next := slices.IndexFunc(k.references[l], func(r reference) bool { return r.to == chain[1] })
	k.errs.add(k.references[l][next].pos, l.Name, "layers need each other in a cycle, %s: break it at one of them", strings.Join(names, " → "))
}

// writers returns for each layer those before it that may write what it reads of
// this machine: their run has it bound. stacker, which builds one layer after
// another, lets a layer leave files for a later one that way.
func (g *Graph) writers() map[*Layer][]*Layer {
	writers := map[*Layer][]*Layer{}
	var binders []*Layer
	for _, l := range g.Layers {
		for _, binder := range binders {
			if slices.ContainsFunc(binder.Binds, func(b Bind) bool { return !b.Track && overlapsAny(b.Source, localReads(l)) }) {
				writers[l] = append(writers[l], binder)
			}
		}
		if len(l.Binds) > 0 {
			binders = append(binders, l)
		}
	}
	return writers
}

// localReads are the paths of this machine that a layer reads.
func localReads(l *Layer) []string {
	var paths []string
	add := func(s Source) {
		if s.Scheme == SchemeLocal && s.Path != "" {
			paths = append(paths, s.Path)
		}
	}
	add(l.From.Source)
	for _, i := range l.Imports {
		add(i.Source)
	}
	for _, o := range l.OverlayDirs {
		paths = append(paths, o.Source)
	}
	for _, b := range l.Binds {
		paths = append(paths, b.Source)
	}
	return paths
}

// overlapsAny tells whether path is, contains or lies in one of the others. All
// are absolute and clean.
func overlapsAny(path string, others []string) bool {
	return slices.ContainsFunc(others, func(other string) bool {
		return path == other || strings.HasPrefix(path, other+"/") || strings.HasPrefix(other, path+"/")
	})
}

// sortNeeds fills g.needs with what each calls add with, once and in g's order.
func (g *Graph) sortNeeds(each func(l *Layer, add func(*Layer))) {
	place := make(map[*Layer]int, len(g.Layers))
	for i, l := range g.Layers {
		place[l] = i
	}
	for _, l := range g.Layers {
		var needs []*Layer
		each(l, func(to *Layer) { needs = append(needs, to) })
		slices.SortFunc(needs, func(a, b *Layer) int { return place[a] - place[b] })
		g.needs[l] = slices.Compact(needs)
	}
}

// Only returns the graph of the named layers and all that they need, in the same
// order; of all layers when no name is given. Its Files are those of g.
func (g *Graph) Only(names ...string) (*Graph, error) {
	if len(names) == 0 {
		return g, nil
	}
	var errs []error
	keep := map[*Layer]bool{}
	for _, name := range names {
		l := g.byName[name]
		if l == nil {
			errs = append(errs, g.unknown(name))
			continue
		}
		keep[l] = true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	sub := &Graph{Files: g.Files, Warnings: g.Warnings, byName: map[string]*Layer{}, needs: map[*Layer][]*Layer{}}
	for _, l := range slices.Backward(g.Layers) {
		if keep[l] {
			for _, need := range g.needs[l] {
				keep[need] = true
			}
		}
	}
	for _, l := range g.Layers {
		if keep[l] {
			sub.Layers = append(sub.Layers, l)
			sub.byName[l.Name] = l
			sub.needs[l] = g.needs[l]
		}
	}
	return sub, nil
}

func (g *Graph) unknown(name string) error {
	names := make([]string, len(g.Layers))
	for i, l := range g.Layers {
		names[i] = l.Name
	}
	hint := DidYouMean(name, names)
	if hint == "" {
		hint = ": the layers are " + strings.Join(names, ", ")
	}
	return fmt.Errorf("there is no layer %s%s", quote(name), hint)
}
