package overlay

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// provenName is the file of a snapshot that names the place where it was proven last.
const provenName = "proven"

// Proven reports whether a snapshot was made where the store is, or proven there. The files of one
// that was copied or restored with the folder may have lost what is theirs: compare them before they
// are used, and then call Prove, or Discard. It does not look at the snapshot's parents.
func (s *Store) Proven(snap Snapshot) bool {
	switch snap.Place {
	case s.place.ID:
		return true
	case "":
		if s.place.Elders {
			return true
		}
	}
	if s.place.ID == "" { // in memory
		return true
	}
	mark, _ := statedir.ReadFile(filepath.Join(s.snapshots, snap.ID.Encoded(), provenName))
	return string(mark) == s.place.ID
}

// Prove notes that the files of a snapshot, which the caller holds, are those it was made with.
func (s *Store) Prove(id digest.Digest) error {
	path, err := s.path(id)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(path, provenName), []byte(s.place.ID), 0o600)
}

// Discard removes a snapshot that can be made again, whatever stands on it, or puts it aside if a
// process uses it.
func (s *Store) Discard(id digest.Digest) error {
	path, err := s.path(id)
	if err != nil {
		return err
	}
	s.Release(id)
	lock, err := lockFolder(path, locks.Exclusive)
	if err != nil {
		_, err := s.PutAside(id)
		return err
	}
	defer lock.Close()
	return s.dir.Remove(path, statedir.Overlays)
}
