package imports

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// A Stored is one tree or download that a Store keeps.
type Stored struct {
	Digest   digest.Digest
	Download bool   // a download; otherwise a tree: its manifest and its mirror
	URL      string // that a download came from, redacted; "" if that is not known
	Disk     int64  // bytes allocated on disk; files of several mirrors count for the first
	Inodes   int64
	Time     int64    // when it came, in seconds since 1970
	Locks    []uint64 // the inodes of what of it is locked while it is in use
}

// List returns all trees and downloads that are in the store.
func (s *Store) List(ctx context.Context) ([]Stored, error) {
	trees := map[digest.Digest]*Stored{}
	var order []digest.Digest
	add := func(hex, path string, linked map[uint64]bool) error {
		d := digest.NewDigestFromEncoded(digest.SHA256, hex)
		if d.Validate() != nil {
			return ctx.Err()
		}
		if trees[d] == nil {
			trees[d] = &Stored{Digest: d}
			order = append(order, d)
		}
		return trees[d].add(ctx, path, linked)
	}
	manifests, err := filepath.Glob(filepath.Join(s.state, "trees", "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range manifests {
		if err := add(filepath.Base(path), path, nil); err != nil {
			return nil, err
		}
	}
	mirrors, err := os.ReadDir(filepath.Join(s.state, "mirrors"))
	if err != nil {
		return nil, err
	}
	linked := map[uint64]bool{}
	for _, e := range mirrors {
		if err := add(e.Name(), filepath.Join(s.state, "mirrors", e.Name()), linked); err != nil {
			return nil, err
		}
	}
	all := make([]Stored, len(order))
	for i, d := range order {
		all[i] = *trees[d]
	}
	return s.listDownloads(ctx, all)
}

func (s *Store) listDownloads(ctx context.Context, all []Stored) ([]Stored, error) {
	urls := map[digest.Digest]string{}
	notes, err := filepath.Glob(filepath.Join(s.state, "downloads", "urls", "*.json"))
	if err != nil {
		return nil, err
	}
	for _, path := range notes {
		if v, ok := readValidators(path); ok {
			urls[v.Digest] = v.URL
		}
	}
	files, err := filepath.Glob(filepath.Join(s.state, "downloads", "??", "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		d := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(path))
		if d.Validate() != nil {
			continue
		}
		item := Stored{Digest: d, Download: true, URL: urls[d]}
		if err := item.add(ctx, path, nil); err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

// add adds what a file, or a folder with all that is in it, takes on disk.
func (i *Stored) add(ctx context.Context, root string, linked map[uint64]bool) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if errors.Is(err, fs.ErrNotExist) || unix.Lstat(path, &st) != nil {
			return ctx.Err() // removed just now
		}
		if err != nil {
			return err
		}
		if i.Time = max(i.Time, st.Mtim.Sec); path == root {
			i.Locks = append(i.Locks, st.Ino)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && linked != nil {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		i.Disk += st.Blocks * 512
		i.Inodes++
		return ctx.Err()
	})
}

// InUse says whether any process uses a tree or a download right now.
func (s *Store) InUse(i Stored) bool {
	return slices.ContainsFunc(s.places(i), func(path string) bool {
		free, err := s.tryDir(path, locks.Exclusive)
		if free != nil {
			free.Close()
			return false
		}
		_, gone := os.Lstat(path)
		return err == nil && gone == nil
	})
}

// places are the paths of what something consists of.
func (s *Store) places(i Stored) []string {
	if i.Download {
		return []string{s.downloadPath(i.Digest)}
	}
	return []string{s.manifestPath(i.Digest), s.mirrorDir(i.Digest)}
}

// Remove removes a tree or a download. It fails with locks.ErrHeld while any process
// reads it; that it is not there is no error. Who has removed trees calls DropHints.
func (s *Store) Remove(i Stored) error {
	if s.InUse(i) {
		return fmt.Errorf("removing %s: %w", i.Digest, locks.ErrHeld)
	}
	if i.Download {
		return s.removeFile(s.downloadPath(i.Digest))
	}
	if err := s.removeFile(s.manifestPath(i.Digest)); err != nil {
		return err
	}
	dir, err := s.takeMirror(i.Digest)
	if dir != nil {
		err = dir.remove()
	}
	return err
}

// removeFile removes a file that nobody uses.
func (s *Store) removeFile(path string) error {
	file, err := s.tryDir(path, locks.Exclusive)
	if err != nil {
		return err
	}
	if file != nil {
		return file.remove()
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("removing %s: %w", path, locks.ErrHeld) // by somebody who came just now
	}
	return nil
}

// DropHints removes what says that a tree is the last one of a source, of trees that
// are gone.
func (s *Store) DropHints() error {
	hints, err := filepath.Glob(filepath.Join(s.state, "mirrors", "latest", "*"))
	if err != nil {
		return err
	}
	drop := func(path string, tree digest.Digest) {
		if _, gone := os.Lstat(s.manifestPath(tree)); errors.Is(gone, fs.ErrNotExist) {
			if failed := os.Remove(path); !errors.Is(failed, fs.ErrNotExist) { // by another
				err = errors.Join(err, failed)
			}
		}
	}
	for _, path := range hints {
		if tree := readHint(path); tree != "" {
			drop(path, tree)
		}
	}
	memos, _ := filepath.Glob(s.memoPath("*"))
	for _, path := range memos {
		if m, ok := readMemo(path); ok {
			drop(path, m.Tree.Digest)
		}
	}
	return err
}

// hold keeps a download or a manifest from being removed until Close. It returns
// false if it is gone.
func (s *Store) hold(ctx context.Context, path string) (bool, error) {
	return s.holdBy(path, func() (*lockedDir, error) { return s.lockDir(ctx, path, locks.Shared) })
}

// tryHold is hold, but it also returns false if it is being removed.
func (s *Store) tryHold(path string) (bool, error) {
	return s.holdBy(path, func() (*lockedDir, error) { return s.tryDir(path, locks.Shared) })
}

func (s *Store) holdBy(path string, lock func() (*lockedDir, error)) (bool, error) {
	file, err := s.held.Hold(path, func() (*os.File, error) {
		file, err := lock()
		if file == nil {
			return nil, err
		}
		return file.File, err
	})
	return file != nil, err
}

// Close ends the use of downloads and trees.
func (s *Store) Close() error { return s.held.Close() }

// Check reads what is stored, and returns ErrCorrupt if it is not what its
// digest says. A mirror or a download is only read if data says so, and a mirror of
// an earlier boot is not: that is read before it is used. What is damaged stays
// where it is.
func (s *Store) Check(ctx context.Context, i Stored, data bool) error {
	if i.Download {
		if !data {
			return nil
		}
		return checkFile(s.downloadPath(i.Digest), i.Digest)
	}
	entries, err := s.checkManifest(i.Digest)
	if err != nil {
		return err
	}
	if !data {
		return nil
	}
	dir, err := s.lockDir(ctx, s.mirrorDir(i.Digest), locks.Shared) // nobody makes another one of it meanwhile
	if err != nil || dir == nil {
		return err
	}
	defer dir.Close()
	if trust, err := s.trust(dir.path); err != nil || trust != trusted { // it is checked before it is used
		return err
	}
	mirror, err := s.read(ctx, Source{Root: dir.path, Path: "root"}, nil)
	if err != nil {
		return err
	}
	if d := mirror.folder.digest(); d != i.Digest {
		return mirrorError(d, entries, mirror.folder)
	}
	return nil
}

// checkManifest reads the manifest of a tree, which may be gone, with go-mtree: what is stored is
// no text that only layerbuild understands.
func (s *Store) checkManifest(d digest.Digest) ([]Entry, error) {
	f, err := statedir.Open(s.manifestPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", ErrCorrupt, err)
	}
	defer f.Close()
	entries, err := readSpec(f, d)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", ErrCorrupt, err)
	}
	return entries, nil
}

// A MirrorError is an ErrCorrupt about a mirror that is not what its digest says.
type MirrorError struct {
	Digest   digest.Digest // of what it is
	Was, Now []Entry       // what it should hold, and what it holds; Was is nil if nobody knows
}

func (e *MirrorError) Error() string {
	return fmt.Sprintf("mirror: %s: its content is %s", ErrCorrupt, e.Digest)
}

func (e *MirrorError) Unwrap() error { return ErrCorrupt }

func mirrorError(d digest.Digest, was []Entry, now *folder) error {
	var text bytes.Buffer
	if err := writeManifest(&text, now); err != nil {
		return err
	}
	entries, err := parseManifest(&text, len(was))
	return errors.Join(err, &MirrorError{d, was, entries})
}

func checkFile(path string, want digest.Digest) error {
	f, err := statedir.Open(path)
	if statedir.Irregular(err) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := digest.FromReader(f)
	if err == nil && got != want {
		err = fmt.Errorf("%w: its content is %s", ErrCorrupt, got)
	}
	return err
}
