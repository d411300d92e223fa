package imports

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// copyOut copies a source to a place in a folder of this machine.
func copyOut(t *testing.T, s *Store, src Source, root, dest string) error {
	t.Helper()
	tree := must(s.Digest(context.Background(), src))(t)
	return s.Copy(context.Background(), src, tree, root, dest, CopyOptions{Outside: true})
}

// Whatever links an earlier copy, or anybody, has left in a folder, nothing is written
// outside of it: where the tree has a folder or a file, there is one then.
func TestOutsideFollowsNoLink(t *testing.T) {
	source := write(t, t.TempDir(), map[string]string{"a/b/c": "new", "a/b/d": "new"})
	host := write(t, t.TempDir(), map[string]string{"b/c": "precious", "c": "precious"})
	s := open(t, Options{})
	for _, target := range []string{host, strings.Repeat("../", 30) + host[1:], host + "/c", "dangling", "a", "/"} {
		for _, at := range []string{"a", "a/b", "a/b/c"} {
			for _, src := range []Source{{Path: source, Content: true}, {Path: filepath.Join(source, "a")}} {
				root := t.TempDir()
				ok(t, os.MkdirAll(filepath.Dir(filepath.Join(root, at)), 0o755))
				ok(t, os.Symlink(target, filepath.Join(root, at)))
				ok(t, copyOut(t, s, src, root, "/"))
				for _, file := range []string{"a/b/c", "a/b/d"} {
					if text, err := os.ReadFile(filepath.Join(root, file)); string(text) != "new" {
						t.Errorf("%s a link to %s: %s is %q, %v", at, target, file, text, err)
					}
				}
			}
		}
	}
	for _, file := range []string{"b/c", "c"} {
		if text := must(os.ReadFile(filepath.Join(host, file)))(t); string(text) != "precious" {
			t.Errorf("%s is %q", file, text)
		}
	}
	if left := must(os.ReadDir(filepath.Join(host, "b")))(t); len(left) != 1 {
		t.Errorf("in a folder of the host there are %v", left)
	}
}

// What is neither a folder nor a link is not taken away for a folder.
func TestOutsideKeepsFiles(t *testing.T) {
	source := write(t, t.TempDir(), map[string]string{"a/b": "new"})
	root := write(t, t.TempDir(), map[string]string{"a": "precious"})
	err := copyOut(t, open(t, Options{}), Source{Path: source, Content: true}, root, "/")
	if err == nil || !strings.Contains(err.Error(), filepath.Join(root, "a")+" is no folder: ") {
		t.Error(err)
	}
	if text := must(os.ReadFile(filepath.Join(root, "a")))(t); string(text) != "precious" {
		t.Errorf("%q", text)
	}
}

// Names of one file are names of one file again, over what an earlier copy has left as well.
func TestOutsideKeepsHardLinks(t *testing.T) {
	source := write(t, t.TempDir(), map[string]string{"bin/busybox": "program", "other": "program"})
	for _, name := range []string{"bin/sh", "bin/ls", "usr"} {
		ok(t, os.Link(filepath.Join(source, "bin/busybox"), filepath.Join(source, name)))
	}
	s, root := open(t, Options{}), t.TempDir()
	for range 2 {
		ok(t, copyOut(t, s, Source{Path: source, Content: true}, root, "/"))
		inodes := map[uint64]bool{}
		for _, name := range []string{"bin/busybox", "bin/sh", "bin/ls", "usr"} {
			var st unix.Stat_t
			ok(t, unix.Lstat(filepath.Join(root, name), &st))
			inodes[st.Ino] = true
			if st.Nlink != 4 {
				t.Errorf("%s has %d names", name, st.Nlink)
			}
		}
		var other unix.Stat_t
		ok(t, unix.Lstat(filepath.Join(root, "other"), &other))
		if len(inodes) != 1 || inodes[other.Ino] {
			t.Errorf("inodes %v, of another file of equal content %d", inodes, other.Ino)
		}
	}
}
