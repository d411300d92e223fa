package imports

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ErrInUse is the cause of an error when something is in use.
var ErrInUse = errors.New("in use")

// A Stored is one tree or download that a Store keeps.
type Stored struct {
	Digest   digest.Digest
	Download bool   // a download; otherwise a tree: its manifest and its mirror
	URL      string // that a download came from, redacted; "" if that is not known
	Disk     int64  // bytes allocated on disk; files of several mirrors count for the first
	Inodes   int64
	Time     int64 // when it came, in seconds since 1970
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
func (i *Stored) add(ctx context.Context, path string, linked map[uint64]bool) error {
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if errors.Is(err, fs.ErrNotExist) || unix.Lstat(path, &st) != nil {
			return ctx.Err() // removed just now
		}
		if err != nil {
			return err
		}
		i.Time = max(i.Time, st.Mtim.Sec)
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

// InUse says whether any process reads a tree's mirror or a download right now.
func (s *Store) InUse(ctx context.Context, i Stored) bool {
	path := s.mirrorDir(i.Digest)
	if i.Download {
		path = s.downloadPath(i.Digest)
	}
	dir, err := lockDir(ctx, path, unix.LOCK_EX|unix.LOCK_NB)
	if dir != nil {
		dir.Close()
		return false
	}
	_, gone := os.Lstat(path)
	return err == nil && gone == nil
}

// Remove removes a tree or a download. It fails with ErrInUse while any process
// reads it; that it is not there is no error.
func (s *Store) Remove(ctx context.Context, i Stored) error {
	if s.InUse(ctx, i) {
		return fmt.Errorf("removing %s: %w", i.Digest, ErrInUse)
	}
	if i.Download {
		return s.removeDownload(ctx, i.Digest)
	}
	dir, err := s.takeMirror(ctx, i.Digest)
	if err != nil {
		return err
	}
	if dir != nil {
		err = dir.remove()
	}
	if gone := os.Remove(s.manifestPath(i.Digest)); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return errors.Join(err, s.removeHints(i.Digest))
}

// removeHints removes what says that a mirror was the last one of a source.
func (s *Store) removeHints(d digest.Digest) error {
	hints, err := filepath.Glob(filepath.Join(s.state, "mirrors", "latest", "*"))
	if err != nil {
		return err
	}
	for _, hint := range hints {
		if readHint(hint) == d {
			err = errors.Join(err, os.Remove(hint))
		}
	}
	return err
}

func (s *Store) removeDownload(ctx context.Context, d digest.Digest) error {
	file, err := lockDir(ctx, s.downloadPath(d), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil || file == nil {
		return err
	}
	return file.remove()
}

// hold keeps a download from being removed until Close. It returns false if it
// is gone, or being removed.
func (s *Store) hold(ctx context.Context, path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[path] != nil {
		return true
	}
	file, err := lockDir(ctx, path, unix.LOCK_SH|unix.LOCK_NB)
	if err != nil || file == nil {
		return false
	}
	s.held[path] = file
	return true
}

// Close ends the use of downloads.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, file := range s.held {
		file.Close()
		delete(s.held, path)
	}
	return nil
}

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
	f, err := os.Open(s.manifestPath(i.Digest))
	if err == nil {
		defer f.Close()
		if _, err := readManifest(f, 0, i.Digest); err != nil {
			return fmt.Errorf("manifest: %w: %w", ErrCorrupt, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	boot, err := bootID()
	if err != nil || !data || !ofBoot(s.mirrorDir(i.Digest), boot) { // one of another boot is checked before it is used
		return err
	}
	t, err := s.digest(ctx, Source{Root: s.mirrorDir(i.Digest), Path: "root"}, nil)
	if err == nil && t.Digest != i.Digest {
		err = fmt.Errorf("mirror: %w: its content is %s", ErrCorrupt, t.Digest)
	}
	return err
}

func checkFile(path string, want digest.Digest) error {
	f, err := os.Open(path)
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
