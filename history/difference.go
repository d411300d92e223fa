package history

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
)

// A Differ spells out how the inputs of two steps differ.
type Differ struct {
	Old, New func(digest.Digest) ([]imports.Entry, error) // the trees of each side; nil if they are not known
	Limit    int                                          // of lines and of changes a reason; 0 for none
}

// Reason spells out one difference. The steps are of the layers was and is.
func (d Differ) Reason(r buildcache.Reason, was, is buildcache.Origin) explain.Reason {
	out := explain.Reason{
		Code: string(r.Code), Name: r.Name, Old: r.Old, New: r.New, Redacted: r.Redacted, Uncertain: r.Uncertain,
		Note: explain.Presence(!r.Added, !r.Removed),
	}
	switch {
	case r.Code == buildcache.BaseChange && r.Name == "base":
		out.Old, out.New = BaseText(was, r.Old), BaseText(is, r.New)
	case r.Code == buildcache.Import, r.Code == buildcache.Overlay, r.Code == buildcache.Bind:
		out.Old, out.New, out.Changes = d.trees(r.Old, r.New)
	case strings.Contains(r.Old+r.New, "\n"):
		out.Old, out.New = "", ""
		if out.Note == "" {
			out.Diff = explain.DiffLines(r.Old, r.New)
		}
	}
	if most := d.Limit; most > 0 {
		out.More = max(0, len(out.Diff)-most) + max(0, len(out.Changes)-most)
		out.Diff = out.Diff[:min(len(out.Diff), most)]
		out.Changes = out.Changes[:min(len(out.Changes), most)]
	}
	return out
}

// BaseText returns what a layer starts from, and its digest: chain, if that has no manifest.
func BaseText(o buildcache.Origin, chain string) string {
	return strings.TrimSpace(o.Base + " " + cmp.Or(o.Manifest, chain))
}

// trees compares the values of two inputs that are trees, and how they are copied into the image.
func (d Differ) trees(old, new string) (was, is string, changes []explain.Change) {
	before, beforeAttributes := treeOf(old)
	now, nowAttributes := treeOf(new)
	if old != "" && new != "" {
		changes = copyChanges(beforeAttributes, nowAttributes)
	}
	if before == now || before == "" || now == "" || d.Old == nil || d.New == nil {
		return string(before), string(now), changes
	}
	var oldEntries, newEntries []imports.Entry
	var reading errgroup.Group
	reading.Go(func() (err error) { oldEntries, err = d.Old(before); return err })
	reading.Go(func() (err error) { newEntries, err = d.New(now); return err })
	if reading.Wait() == nil {
		for _, c := range imports.Compare(oldEntries, newEntries) {
			changes = append(changes, change(c))
		}
	}
	return string(before), string(now), changes
}

// treeOf reads the value of an input that is a tree: its digest and, if the tree is copied into the
// image, how.
func treeOf(value string) (digest.Digest, map[string]string) {
	if !strings.HasPrefix(value, "{") {
		return digest.Digest(value), nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(value), &fields) != nil {
		return "", nil
	}
	attributes := map[string]string{}
	for name, raw := range fields {
		text := strings.Trim(string(raw), `"`)
		if mode, err := strconv.ParseUint(text, 10, 32); name == "Mode" && err == nil {
			text = fmt.Sprintf("%04o", mode&uint64(fs.ModePerm))
		}
		attributes[strings.ToLower(name)] = text
	}
	tree := attributes["tree"]
	delete(attributes, "tree")
	return digest.Digest(tree), attributes
}

// copyChanges returns in what two copies of a tree differ that their entries do not show.
func copyChanges(old, new map[string]string) []explain.Change {
	c := explain.Change{Op: "~", Path: "."}
	for _, name := range []string{"name", "content", "mode", "uid", "gid"} {
		if old[name] != new[name] {
			c.Attributes = append(c.Attributes, explain.Attribute{Name: name, Old: old[name], New: new[name]})
		}
	}
	if len(c.Attributes) == 0 {
		return nil
	}
	return []explain.Change{c}
}

// change spells out a difference of two trees at one path.
func change(c imports.Change) explain.Change {
	out := explain.Change{Op: "~", Path: printablePath(c.Path)}
	switch {
	case c.Old == nil:
		out.Op = "+"
		return out
	case c.New == nil:
		out.Op = "-"
		return out
	}
	add := func(name, old, new string) {
		if old != new {
			out.Attributes = append(out.Attributes, explain.Attribute{Name: name, Old: old, New: new})
		}
	}
	old, new := c.Old, c.New
	add("type", old.Type.String(), new.Type.String())
	if old.Type == imports.File && new.Type == imports.File {
		add("sha256", hex.EncodeToString(old.Sum[:]), hex.EncodeToString(new.Sum[:]))
		add("size", strconv.FormatInt(old.Size, 10), strconv.FormatInt(new.Size, 10))
	}
	if old.Type != imports.Symlink && new.Type != imports.Symlink {
		add("mode", fmt.Sprintf("%04o", old.Mode), fmt.Sprintf("%04o", new.Mode))
	}
	add("link", printablePath(old.Link), printablePath(new.Link))
	add("device", device(old), device(new))
	addXattrs(old.Xattrs, new.Xattrs, add)
	return out
}

func device(e *imports.Entry) string {
	if e.Type != imports.Char && e.Type != imports.Block {
		return ""
	}
	return fmt.Sprintf("%d,%d", e.Major, e.Minor)
}

func addXattrs(old, new []imports.Xattr, add func(name, old, new string)) {
	value := func(all []imports.Xattr, name string) string {
		for _, x := range all {
			if x.Name == name {
				return xattrValue(x.Value)
			}
		}
		return ""
	}
	var names []string
	for _, x := range slices.Concat(old, new) {
		names = append(names, x.Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		add("xattr "+name, value(old, name), value(new, name))
	}
}

// xattrValue returns v if it is short text, and its digest otherwise.
func xattrValue(v string) string {
	const longest = 64
	switch {
	case v == "":
		return `""`
	case len(v) > longest || !utf8.ValidString(v):
		return string(digest.FromString(v))
	}
	return v
}

// printablePath returns path as JSON can hold it: quoted if it is not UTF-8.
func printablePath(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return strconv.Quote(path)
}

// BaselineOf tells people which record a step was compared with.
func BaselineOf(r *buildcache.Record, kind string) *explain.Baseline {
	return &explain.Baseline{Kind: kind, Layer: r.Origin.Layer, Stackerfile: r.Origin.Stackerfile, Built: r.Created, Key: string(r.Key)}
}
