package imports

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/layerbuild/layerbuild/locks"
)

// TestTreeHeld has a tree that nobody can remove while somebody works with it.
func TestTreeHeld(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644))
	state := t.TempDir()
	user := must(Open(state, Options{}))(t)
	pruner := must(Open(state, Options{}))(t)
	tree := digestOf(t, user, Source{Path: dir})

	all := must(pruner.List(t.Context()))(t)
	if len(all) != 1 || all[0].Digest != tree.Digest || !pruner.InUse(all[0]) {
		t.Fatalf("%+v", all)
	}
	if err := pruner.Remove(all[0]); !errors.Is(err, locks.ErrHeld) {
		t.Fatalf("it is removed: %v", err)
	}
	must(user.Entries(tree.Digest))(t)
	ok(t, user.Close())
	if pruner.InUse(all[0]) {
		t.Error("it is in use after Close")
	}
	ok(t, pruner.Remove(all[0]))
	if left := must(pruner.List(t.Context()))(t); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// TestTreePruned digests a tree again and again while others remove it: whoever
// has digested it has its manifest.
func TestTreePruned(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644))
	ctx, stop := context.WithCancel(t.Context())
	var pruners, users sync.WaitGroup
	pruners.Go(func() {
		s := must(Open(state, Options{}))(t)
		for ctx.Err() == nil {
			for _, i := range must(s.List(t.Context()))(t) {
				if err := s.Remove(i); err != nil && !errors.Is(err, locks.ErrHeld) {
					t.Error(err)
				}
			}
		}
	})
	for range 4 {
		users.Go(func() {
			for range 100 {
				s := must(Open(state, Options{}))(t)
				tree, err := s.Digest(t.Context(), Source{Path: dir})
				if err == nil {
					_, err = s.Entries(tree.Digest)
				}
				if err = errors.Join(err, s.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	users.Wait()
	stop()
	pruners.Wait()
}
