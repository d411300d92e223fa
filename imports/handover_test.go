package imports

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHandOver measures in two lives of one process: the second takes over what the
// first one measured, once, and no other process does.
func TestHandOver(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": "1"})
	src := Source{Path: dir}
	first := open(t, Options{})
	tree := digestOf(t, first, src)
	first.HandOver()
	handed := must(os.ReadFile(first.handoverPath()))(t)
	ok(t, first.Close())

	ok(t, os.WriteFile(filepath.Join(dir, "f"), []byte("2"), 0o644))
	second := must(Open(first.state, Options{}))(t)
	if got := digestOf(t, second, src); got.Digest != tree.Digest {
		t.Error("it is measured again")
	}
	if got := digestOf(t, second, Source{Path: dir, Content: true}); got.Digest == tree.Digest {
		t.Error("another source is taken for it")
	}
	if got := digestOf(t, second, src); got.Digest == tree.Digest {
		t.Error("who asks again is not told what it is now")
	}
	ok(t, second.Close())
	third := must(Open(first.state, Options{}))(t)
	if got := digestOf(t, third, src); got.Digest == tree.Digest {
		t.Error("it is taken over twice")
	}

	process := must(processID())(t)
	for name, text := range map[string]string{
		"another process": strings.ReplaceAll(string(handed), process, process+"1"),
		"damaged":         string(handed[:len(handed)-2]),
		"empty":           "",
	} {
		ok(t, os.WriteFile(first.handoverPath(), []byte(text), 0o644))
		if got := digestOf(t, must(Open(first.state, Options{}))(t), src); got.Digest == tree.Digest {
			t.Errorf("%s: it is taken over", name)
		}
	}

	// Its manifest is gone meanwhile.
	ok(t, third.Close())
	ok(t, os.WriteFile(first.handoverPath(), handed, 0o644))
	ok(t, os.Remove(first.manifestPath(tree.Digest)))
	if got := digestOf(t, must(Open(first.state, Options{}))(t), src); got.Digest == tree.Digest {
		t.Error("a tree without a manifest is taken over")
	}
}
