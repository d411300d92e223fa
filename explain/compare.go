package explain

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
)

// A Side is one of two steps that are compared: what it reads, and what explains
// that to people.
type Side struct {
	Inputs buildcache.Inputs // as a record holds them: secrets are redacted
	Origin buildcache.Origin
	Tree   func(digest.Digest) ([]imports.Entry, error) // nil where trees are not known
	Said   map[string]Said                              // by the names of inputs, where that is known
}

// Said is what a stackerfile says of an input.
type Said struct {
	Source     string // of an import, an overlay dir or a bind, as it is written there
	Directive  string // the one that lets a variable in
	Normalized bool   // of modes only what git keeps counts
	By         string // the layer that it comes from, if that was rebuilt
}

// Compare returns every input in which two steps differ, ordered by code and then
// as the step has them. Imports, overlay dirs and binds are paired by what they
// are and not by their numbers: one that is put before others makes no difference
// of these, one that was renamed is one difference, and their order is one more.
//
// Of the lines and changes of a reason at most limit are kept; 0 keeps all.
func Compare(was, is Side, limit int) []Reason {
	c := comparison{was, is, limit}
	var reasons []Reason
	old, oldPlaced := c.was.split()
	new, newPlaced := c.is.split()
	for _, input := range new {
		before := take(&old, func(i buildcache.Input) bool { return i.Name == input.Name })
		if before == nil || before.Value != input.Value {
			reasons = append(reasons, c.plain(before, &input))
		}
	}
	for _, input := range old {
		reasons = append(reasons, c.plain(&input, nil))
	}
	reasons = append(reasons, c.placed(oldPlaced, newPlaced)...)
	slices.SortStableFunc(reasons, func(a, b Reason) int { return cmp.Compare(a.Code, b.Code) })
	return reasons
}

type comparison struct {
	was, is Side
	limit   int
}

// split separates the inputs that lie somewhere from all others, which are sorted by name.
func (s *Side) split() (plain []buildcache.Input, all []*placed) {
	for _, input := range s.Inputs {
		if isTree(input.Code) {
			all = append(all, newPlaced(input))
		} else {
			plain = append(plain, input)
		}
	}
	slices.SortStableFunc(plain, func(a, b buildcache.Input) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(all, func(a, b *placed) int { return cmp.Compare(a.order, b.order) })
	return plain, all
}

// take removes the first element that matches and returns it, or nil.
func take[E any](all *[]E, match func(E) bool) *E {
	at := slices.IndexFunc(*all, match)
	if at < 0 {
		return nil
	}
	found := (*all)[at]
	*all = slices.Delete(slices.Clone(*all), at, at+1)
	return &found
}

// reason begins a reason about an input, of which one side may be missing.
func (c *comparison) reason(old, new *buildcache.Input) Reason {
	var r Reason
	for _, input := range []*buildcache.Input{old, new} {
		if input != nil {
			r.Code, r.Name, r.Redacted = input.Code, input.Name, r.Redacted || input.Redacted
		}
	}
	said := c.was.Said[r.Name]
	switch {
	case old == nil:
		r.Note, r.New = added, new.Value
	case new == nil:
		r.Note, r.Old = removed, old.Value
	default:
		r.Old, r.New = old.Value, new.Value
		r.Uncertain = buildcache.Incomparable(*old, *new)
	}
	if new != nil {
		said = c.is.Said[r.Name]
	}
	r.Called, r.Directive, r.By, r.normalized = said.Source, said.Directive, said.By, said.Normalized
	return r
}

// plain explains a text that differs.
func (c *comparison) plain(old, new *buildcache.Input) Reason {
	r := c.reason(old, new)
	switch {
	case r.Code == buildcache.BaseChange && r.Name == "base":
		r.Old, r.New = baseText(c.was.Origin, r.Old), baseText(c.is.Origin, r.New)
	case strings.Contains(r.Old+r.New, "\n"):
		if r.Note == "" {
			r.Diff, r.More = atMost(c.limit, DiffLines(r.Old, r.New))
		}
		r.Old, r.New = "", ""
	}
	return r
}

// atMost cuts a list, and counts what it leaves out.
func atMost[E any](limit int, all []E) (some []E, more int) {
	if limit == 0 || len(all) <= limit {
		return all, 0
	}
	return all[:limit], len(all) - limit
}

// baseText names what a layer starts from, and its digest.
func baseText(o buildcache.Origin, chain string) string {
	return strings.TrimSpace(o.Base + " " + cmp.Or(o.Manifest, chain))
}

// A placed input is a tree that lies somewhere: an import, an overlay dir, a bind.
type placed struct {
	buildcache.Input
	kind  string // the first word of its name
	place string // where it is seen, or copied to
	order int    // among those that may lie over one another; otherwise 0
	tree  digest.Digest
	how   map[string]string // it is copied
}

// numbered matches the names of inputs that have a number, or a word, before their place: those
// whose order counts, imports of which only the content is seen, and imports with a mountpoint.
var numbered = regexp.MustCompile(`^(copy|overlay|import) (?:(\d+)|at)(?:'s content in)? (.*)$`)

func newPlaced(in buildcache.Input) *placed {
	p := &placed{Input: in}
	p.kind, p.place, _ = strings.Cut(in.Name, " ")
	if parts := numbered.FindStringSubmatch(in.Name); parts != nil {
		p.place = parts[3]
		if p.kind != "import" {
			p.order, _ = strconv.Atoi(parts[2])
			p.order++ // overlay dirs are numbered from 0
		}
	}
	p.tree, p.how = treeOf(in.Value)
	return p
}

// placed explains what differs between two lists of trees that lie somewhere.
func (c *comparison) placed(old, new []*placed) (reasons []Reason) {
	pairs := map[*placed]*placed{} // by the new one
	left := slices.Clone(old)
	for _, alike := range []func(a, b *placed) bool{
		func(a, b *placed) bool { return a.kind == b.kind && a.place == b.place && a.Value == b.Value },
		func(a, b *placed) bool { return a.kind == b.kind && a.place == b.place },
		func(a, b *placed) bool { return a.Code == b.Code && a.tree == b.tree },
	} {
		for _, is := range new {
			if pairs[is] != nil {
				continue
			}
			if was := take(&left, func(was *placed) bool { return alike(was, is) }); was != nil {
				pairs[is] = *was
			}
		}
	}
	for _, is := range new {
		switch was := pairs[is]; {
		case was == nil:
			reasons = append(reasons, c.tree(nil, is))
		case was.kind != is.kind || was.place != is.place || was.Value != is.Value:
			reasons = append(reasons, c.tree(was, is))
		}
	}
	for _, was := range left {
		reasons = append(reasons, c.tree(was, nil))
	}
	return append(reasons, c.reordered(new, pairs)...)
}

// reordered explains that trees of which one may lie over another have changed
// their order. New ones come in the order of the step.
func (c *comparison) reordered(new []*placed, pairs map[*placed]*placed) (reasons []Reason) {
	for _, kind := range []string{"copy", "overlay"} {
		var stay []*placed
		for _, is := range new {
			if was := pairs[is]; was != nil && is.kind == kind && was.kind == kind && was.order*is.order > 0 {
				stay = append(stay, is)
			}
		}
		before := slices.SortedStableFunc(slices.Values(stay), func(a, b *placed) int { return cmp.Compare(pairs[a].order, pairs[b].order) })
		if !slices.Equal(stay, before) {
			reasons = append(reasons, Reason{Code: stay[0].Code, Note: reordered, Old: c.labels(before), New: c.labels(stay)})
		}
	}
	return reasons
}

func (c *comparison) labels(all []*placed) string {
	labels := make([]string, len(all))
	for i, p := range all {
		labels[i] = cmp.Or(c.is.Said[p.Name].Source, p.place)
	}
	return strings.Join(labels, ", ")
}

// tree explains one tree that differs, came or went.
func (c *comparison) tree(was, is *placed) Reason {
	if was == nil || is == nil {
		r := c.reason(inputOf(was), inputOf(is))
		for _, value := range []*string{&r.Old, &r.New} {
			tree, _ := treeOf(*value)
			*value = string(tree)
		}
		return r
	}
	r := c.reason(&was.Input, &is.Input)
	r.Old, r.New = string(was.tree), string(is.tree)
	r.Changes, r.More = atMost(c.limit, c.changes(was, is))
	return r
}

func inputOf(p *placed) *buildcache.Input {
	if p == nil {
		return nil
	}
	return &p.Input
}

func isTree(code buildcache.Code) bool {
	return code == buildcache.Import || code == buildcache.Overlay || code == buildcache.Bind
}
