package explain

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	gomtree "github.com/vbatts/go-mtree"
	"golang.org/x/sync/errgroup"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/mtree"
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
		changes = append(changes, TreeChanges(old, new)...)
	}
	return changes
}

// TreeChanges spells out in what two trees differ, by what go-mtree says of the entries that do.
func TreeChanges(old, new []imports.Entry) (changes []Change) {
	deltas, err := imports.Compare(old, new)
	if err != nil { // of entries that are none: those of a bundle from anywhere
		return nil
	}
	for _, d := range deltas {
		changes = append(changes, changeOf(d))
	}
	return changes
}

// ownChange is what differs of an import itself, whatever is in it.
func ownChange(was, is *placed) Change {
	own := ChangeAt(".")
	if was.kind != is.kind || was.place != is.place {
		own.Add("place", was.place, is.place)
	}
	if was.kind == is.kind {
		all := maps.Clone(was.how)
		maps.Copy(all, is.how)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			own.Add(name, was.how[name], is.how[name])
		}
	}
	return own
}

// ChangeAt returns the change of what stays at a path.
func ChangeAt(path string) Change { return Change{Op: "~", Path: printablePath(path)} }

// Add adds an attribute if it differs.
func (c *Change) Add(name, old, new string) {
	if old != new {
		c.Attributes = append(c.Attributes, Attribute{Name: name, Old: old, New: new})
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
		text := string(raw)
		_ = json.Unmarshal(raw, &text) // what is no text stays as it is
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
func changeOf(d gomtree.InodeDelta) Change {
	out := ChangeAt(d.Path())
	switch d.Type() {
	case gomtree.Extra:
		out.Op = "+"
	case gomtree.Missing:
		out.Op = "-"
	}
	for _, key := range d.Diff() {
		if a, tells := attributeOf(key, d); tells {
			out.Attributes = append(out.Attributes, a)
		}
	}
	slices.SortFunc(out.Attributes, func(a, b Attribute) int {
		return cmp.Or(cmp.Compare(slices.Index(attributeOrder[:], a.Name), slices.Index(attributeOrder[:], b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// attributeOrder is that of an entry's attributes; extended ones come first.
var attributeOrder = [...]string{"type", "sha256", "size", "mode", "uid", "gid", "link", "device"}

// attributeOf returns what a keyword says, as people know it. What a file has and a folder cannot
// have tells nothing beside their types, and the mode of a symlink nothing at all.
func attributeOf(key gomtree.KeyDelta, d gomtree.InodeDelta) (a Attribute, tells bool) {
	old, new := pointed(key.Old()), pointed(key.New())
	a = Attribute{Name: string(key.Name()), Old: old, New: new}
	switch name := key.Name(); name.Prefix() {
	case mtree.SHA256:
		a.Name = "sha256"
		return a, old != "" && new != ""
	case mtree.Size:
		return a, old != "" && new != ""
	case mtree.Mode:
		a.Old, a.New = permissions(old), permissions(new)
		return a, !isSymlink(d.Old()) && !isSymlink(d.New())
	case mtree.Link:
		a.Old, a.New = decoded(old), decoded(new)
	case mtree.Device:
		a.Old, a.New = strings.TrimPrefix(old, "linux,"), strings.TrimPrefix(new, "linux,")
	case mtree.Xattr:
		a.Name = "xattr " + decoded(name.Suffix())
		a.Old, a.New = xattrOf(key.Old()), xattrOf(key.New())
	}
	return a, true
}

func pointed(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// permissions shows a mode as chmod takes it, with four digits.
func permissions(mode string) string {
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return mode
	}
	return fmt.Sprintf("%04o", bits)
}

func isSymlink(e *gomtree.Entry) bool {
	return e != nil && slices.Contains(e.AllKeys(), gomtree.KeyVal(mtree.Type+"=link"))
}

func decoded(s string) string {
	if name, err := mtree.Name(s); err == nil {
		return printablePath(name)
	}
	return s
}

// xattrOf returns what is shown of an extended attribute's value; "" is none.
func xattrOf(encoded *string) string {
	if encoded == nil {
		return ""
	}
	value, err := base64.StdEncoding.DecodeString(*encoded)
	if err != nil {
		return *encoded
	}
	return xattrValue(string(value))
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
