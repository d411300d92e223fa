package imports

import (
	"cmp"
	"fmt"
	"strings"
)

// A Change is a difference between two trees at one path. One of Old and New is
// nil when the path is only in the other.
type Change struct {
	Path     string
	Old, New *Entry
}

// Compare returns the differences between two trees, as Entries returns them,
// sorted as entries are.
func Compare(old, new []Entry) []Change {
	var changes []Change
	for len(old) > 0 || len(new) > 0 {
		switch order := compareHeads(old, new); {
		case order < 0:
			changes = append(changes, Change{old[0].Path, &old[0], nil})
			old = old[1:]
		case order > 0:
			changes = append(changes, Change{new[0].Path, nil, &new[0]})
			new = new[1:]
		default:
			if !old[0].equal(&new[0]) {
				changes = append(changes, Change{old[0].Path, &old[0], &new[0]})
			}
			old, new = old[1:], new[1:]
		}
	}
	return changes
}

func compareHeads(old, new []Entry) int {
	switch {
	case len(old) == 0:
		return 1
	case len(new) == 0:
		return -1
	}
	return comparePaths(old[0].Path, new[0].Path)
}

// comparePaths orders paths as manifests do: "/" before any other byte, and the
// root first.
func comparePaths(a, b string) int {
	if a == "." || b == "." {
		return cmp.Compare(rootRank(a), rootRank(b))
	}
	for i := range min(len(a), len(b)) {
		if x, y := a[i], b[i]; x != y {
			if x == '/' {
				return -1
			}
			if y == '/' {
				return 1
			}
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

func rootRank(p string) int {
	if p == "." {
		return 0
	}
	return 1
}

func (e *Entry) equal(o *Entry) bool {
	if e.Type != o.Type || e.Mode != o.Mode || e.Size != o.Size || e.Sum != o.Sum || e.Link != o.Link ||
		e.Major != o.Major || e.Minor != o.Minor || len(e.Xattrs) != len(o.Xattrs) {
		return false
	}
	for i, x := range e.Xattrs {
		if x != o.Xattrs[i] {
			return false
		}
	}
	return true
}

func (c *Change) bothDirs() bool {
	return c.Old != nil && c.New != nil && c.Old.Type == Dir && c.New.Type == Dir
}

// String tells the change in a few words: "added", "removed", or what differs,
// e.g. "content, mode 0644 → 0755".
func (c Change) String() string {
	switch {
	case c.Old == nil:
		return "added"
	case c.New == nil:
		return "removed"
	case c.Old.Type != c.New.Type:
		return fmt.Sprintf("%s → %s", c.Old.Type, c.New.Type)
	}
	var words []string
	if c.Old.Sum != c.New.Sum {
		words = append(words, "content")
	}
	if c.Old.Mode != c.New.Mode {
		words = append(words, fmt.Sprintf("mode %#04o → %#04o", c.Old.Mode, c.New.Mode))
	}
	if c.Old.Link != c.New.Link {
		words = append(words, fmt.Sprintf("link %q → %q", c.Old.Link, c.New.Link))
	}
	if c.Old.Major != c.New.Major || c.Old.Minor != c.New.Minor {
		words = append(words, fmt.Sprintf("device %d,%d → %d,%d", c.Old.Major, c.Old.Minor, c.New.Major, c.New.Minor))
	}
	return strings.Join(append(words, xattrWords(c.Old.Xattrs, c.New.Xattrs)...), ", ")
}

func xattrWords(old, new []Xattr) (words []string) {
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].Name < new[0].Name:
			words = append(words, "xattr "+old[0].Name+" removed")
			old = old[1:]
		case len(old) == 0 || new[0].Name < old[0].Name:
			words = append(words, "xattr "+new[0].Name+" added")
			new = new[1:]
		default:
			if old[0] != new[0] {
				words = append(words, "xattr "+old[0].Name)
			}
			old, new = old[1:], new[1:]
		}
	}
	return words
}
