package explain

import (
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
	"github.com/layerbuild/layerbuild/imports"
)

// changes compares two trees, where they lie, and how they are copied into an image.
func (c *comparison) changes(was, is *placed) (changes []Change) {
	if own := ownChange(was, is); len(own.Attributes) > 0 {
		changes = append(changes, own)
	}
	if was.tree == is.tree || was.tree == "" || is.tree == "" || c.was.Tree == nil || c.is.Tree == nil {
		return changes
	}
	var old, new []imports.Entry
	var reading errgroup.Group
	reading.Go(func() (err error) { old, err = c.was.Tree(was.tree); return err })
	reading.Go(func() (err error) { new, err = c.is.Tree(is.tree); return err })
	if reading.Wait() == nil {
		for _, at := range imports.Compare(old, new) {
			changes = append(changes, changeOf(at))
		}
	}
	return changes
}

// ownChange is what differs of an import itself, whatever is in it.
func ownChange(was, is *placed) Change {
	own := Change{Op: "~", Path: "."}
	add := own.adder()
	if was.kind != is.kind || was.place != is.place {
		add("place", was.place, is.place)
	}
	if was.kind == is.kind {
		for _, name := range []string{"name", "content", "mode", "uid", "gid"} {
			add(name, was.how[name], is.how[name])
		}
	}
	return own
}

// adder returns a function that adds an attribute if it differs.
func (c *Change) adder() func(name, old, new string) {
	return func(name, old, new string) {
		if old != new {
			c.Attributes = append(c.Attributes, Attribute{Name: name, Old: old, New: new})
		}
	}
}

// TreeOf returns the digest of the tree that an input is; false if it is none.
func TreeOf(in buildcache.Input) (digest.Digest, bool) {
	tree, _ := treeOf(in.Value)
	return tree, isTree(in.Code)
}

// treeOf reads what an input says of a tree: its digest or, if it is copied, also
// how, by lower-case names. What is not given is "".
func treeOf(value string) (digest.Digest, map[string]string) {
	if !strings.HasPrefix(value, "{") {
		return digest.Digest(value), nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal([]byte(value), &fields) != nil {
		return "", nil
	}
	how := map[string]string{}
	for name, raw := range fields {
		text := strings.Trim(string(raw), `"`)
		if mode, err := strconv.ParseUint(text, 10, 32); name == "Mode" && err == nil {
			text = fmt.Sprintf("%04o", modeBits(fs.FileMode(mode)))
		}
		if text != "null" {
			how[strings.ToLower(name)] = text
		}
	}
	tree := how["tree"]
	delete(how, "tree")
	return digest.Digest(tree), how
}

// modeBits are the bits of a mode as chmod(2) has them.
func modeBits(m fs.FileMode) fs.FileMode {
	bits := m.Perm()
	for _, special := range []struct{ bit, as fs.FileMode }{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&special.bit != 0 {
			bits |= special.as
		}
	}
	return bits
}

// changeOf spells out a difference at one path.
func changeOf(c imports.Change) Change {
	out := Change{Op: "~", Path: printablePath(c.Path)}
	switch {
	case c.Old == nil:
		out.Op = "+"
		return out
	case c.New == nil:
		out.Op = "-"
		return out
	}
	add := out.adder()
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

// xattrValue is short text itself, and the digest of anything else.
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

// printablePath is a path as JSON can hold it.
func printablePath(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return strconv.Quote(path)
}
