package overlay

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// RemoveListed is Remove for one that has many to remove. What stands on the
// snapshot it knows from the listing, which it brings up to date when something
// has come since: all of them together read the store's folders once, and once
// more for each time that somebody else commits or keeps something meanwhile.
// Whoever calls it closes the listing.
func (s *Store) RemoveListed(ctx context.Context, l *Listing, id digest.Digest) error {
	return s.remove(id, func() (string, error) {
		if err := s.refresh(l); err != nil {
			return "", err
		}
		if snap := l.byID[id]; snap != nil && snap.Children > 0 {
			return "another snapshot", ctx.Err()
		}
		return "", ctx.Err()
	}, func() { l.drop(id) })
}

// Close ends the removing of what was listed.
func (l *Listing) Close() error { return l.came.close() }

// refresh adds to a listing what was committed or kept since.
func (s *Store) refresh(l *Listing) error {
	if !l.came.any() {
		return nil
	}
	if l.came == nil {
		l.came = newArrivals()
	}
	// What comes from here on is told of. failed/ may have come up just now.
	l.came.watch(filepath.Dir(s.failed), s.snapshots, s.failed)
	names, err := folderNames(s.snapshots)
	if err != nil {
		return err
	}
	for _, name := range names {
		id := digest.Digest("sha256:" + name)
		if l.byID[id] != nil {
			continue
		}
		if snap, err := s.Get(id); err == nil { // what is damaged needs no parent
			l.byID[id] = &Listed{Snapshot: snap}
			l.addChild(snap.Parent)
		}
	}
	if names, err = folderNames(s.failed); err != nil {
		return err
	}
	for _, name := range names {
		kept, err := readKept(filepath.Join(s.failed, name))
		if err == nil && !slices.ContainsFunc(l.Kept, func(k Kept) bool { return k.Name == name && k.Parent == kept.Parent }) {
			l.Kept = append(l.Kept, Kept{Name: name, Parent: kept.Parent})
			l.addChild(kept.Parent)
		}
	}
	return nil
}

// drop takes a snapshot that is gone out of the listing.
func (l *Listing) drop(id digest.Digest) {
	if snap := l.byID[id]; snap != nil {
		if parent := l.byID[snap.Parent]; parent != nil {
			parent.Children--
		}
		delete(l.byID, id)
	}
}

// DropKept takes a kept layer that is gone out of the listing.
func (l *Listing) DropKept(name string) {
	l.Kept = slices.DeleteFunc(l.Kept, func(k Kept) bool {
		if k.Name != name {
			return false
		}
		if parent := l.byID[k.Parent]; parent != nil {
			parent.Children--
		}
		return true
	})
}

// RemoveKept removes what was kept under a name. It fails with ErrLocked while
// somebody works on it, and with ErrNotFound.
func (s *Store) RemoveKept(name string) error {
	path, err := s.keptPath(name)
	if err != nil {
		return err
	}
	lock, err := lockFolder(path, locks.Exclusive)
	if err == nil {
		defer lock.Close()
		err = s.dir.Remove(path, statedir.Overlays)
	}
	if err != nil {
		return fmt.Errorf("remove kept layer %q: %w", name, err)
	}
	return nil
}
