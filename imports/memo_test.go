package imports

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// remembers reports whether another process would know dir by its memo alone.
func remembers(t *testing.T, s *Store, dir string) bool {
	t.Helper()
	other := must(Open(s.state, Options{}))(t)
	defer other.Close()
	return must(other.read(t.Context(), Source{Path: dir}, other.index))(t).folder == nil
}

// TestMemo changes a folder in all ways: each is seen at once, and what is seen is
// remembered when it is old enough.
func TestMemo(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a": "1", "b/c": "22", "b/d/e": "3"})
	ok(t, os.Symlink("a", filepath.Join(dir, "link")))
	at := func(name string) string { return filepath.Join(dir, name) }
	s := open(t, Options{})
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"nothing", func() error { return nil }},
		{"content of the same size and time", func() error {
			st := must(os.Stat(at("b/c")))(t)
			ok(t, os.WriteFile(at("b/c"), []byte("44"), 0o644))
			return os.Chtimes(at("b/c"), time.Time{}, st.ModTime())
		}},
		{"another file of the same content", func() error {
			ok(t, os.WriteFile(at("new"), []byte("1"), 0o644))
			return os.Rename(at("new"), at("a"))
		}},
		{"mode", func() error { return os.Chmod(at("a"), 0o755) }},
		{"mode of a folder", func() error { return os.Chmod(at("b/d"), 0o700) }},
		{"attribute", func() error { return unix.Setxattr(at("a"), "user.x", []byte("y"), 0) }},
		{"attribute of a folder", func() error { return unix.Setxattr(at("b"), "user.x", []byte("y"), 0) }},
		{"a new file", func() error { return os.WriteFile(at("b/d/f"), nil, 0o644) }},
		{"a new name", func() error { return os.Rename(at("b/d/e"), at("b/d/g")) }},
		{"a file gone", func() error { return os.Remove(at("b/d/g")) }},
		{"a folder moved", func() error { return os.Rename(at("b/d"), at("d")) }},
		{"a new target", func() error {
			ok(t, os.Remove(at("link")))
			return os.Symlink("b", at("link"))
		}},
	} {
		ok(t, change.do())
		want := digestOf(t, open(t, Options{NoStatIndex: true}), Source{Path: dir}).Digest
		if got := digestOf(t, s, Source{Path: dir}).Digest; got != want {
			t.Errorf("%s: not seen at once", change.name)
		}
		age(t)
		tree := digestOf(t, s, Source{Path: dir})
		if tree.Digest != want || !remembers(t, s, dir) {
			t.Errorf("%s: not remembered", change.name)
		}
		if got := digestOf(t, s, Source{Path: dir}); fmt.Sprint(got) != fmt.Sprint(tree) {
			t.Errorf("%s: remembered as %+v, not %+v", change.name, got, tree)
		}
	}
	if remembers(t, open(t, Options{}), dir) {
		t.Error("another state folder remembers it")
	}
	other := must(Open(s.state, Options{}))(t)
	if r := must(other.read(t.Context(), Source{Path: dir, Normalize: NormalizeGit}, other.index))(t); r.folder == nil {
		t.Error("it is remembered as another kind of source")
	}
}

// TestMemoLost has memos that are damaged, and trees that are gone.
func TestMemoLost(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a": "1"})
	age(t)
	s := open(t, Options{})
	want := digestOf(t, s, Source{Path: dir})
	path := s.memoPath(Source{Path: dir}.id())
	good := must(os.ReadFile(path))(t)
	for i := range good {
		bad := append([]byte{}, good...)
		bad[i] ^= 1
		for _, data := range [][]byte{bad, good[:i]} {
			ok(t, os.WriteFile(path, data, 0o644))
			if remembers(t, s, dir) {
				t.Fatalf("with byte %d damaged it is believed", i)
			}
		}
	}
	ok(t, os.WriteFile(path, good, 0o644))
	if !remembers(t, s, dir) {
		t.Fatal("it is not remembered")
	}

	ok(t, os.Remove(s.manifestPath(want.Digest)))
	if got := digestOf(t, s, Source{Path: dir}); got.Digest != want.Digest {
		t.Error("another digest without a manifest")
	}
	must(s.Entries(want.Digest))(t)

	ok(t, s.Close())
	for _, i := range must(s.List(t.Context()))(t) {
		ok(t, s.Remove(i))
	}
	ok(t, s.DropHints())
	if _, err := os.Stat(path); err == nil {
		t.Error("the memo of a tree that was removed stays")
	}
}
