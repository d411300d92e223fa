package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// keptVersion is the version of mutable.json that is written and read.
const keptVersion = 1

// keptFile is the mutable.json of a difference that was kept.
type keptFile struct {
	Version     int           `json:"version"`
	Parent      digest.Digest `json:"parent,omitempty"`
	Mountpoints []string      `json:"mountpoints,omitempty"` // those that were made at some time, from the root
	Kept        time.Time     `json:"kept"`
	Description string        `json:"description,omitempty"`
}

// Keep ends the Mutable as Drop does, but keeps it under a name, for Find, without
// the mountpoints that were made and nothing was put in. What was kept under that
// name before is removed; ErrLocked if somebody works on it. Its parent stays in
// use until it is found and dropped.
func (m *Mutable) Keep(name, description string) error {
	if err := m.keep(name, description); err != nil {
		return fmt.Errorf("keep %q: %w", name, err)
	}
	return nil
}

func (m *Mutable) keep(name, description string) error {
	if m.committed || m.dir == "" {
		return errors.New("it is committed or dropped already")
	}
	path, err := m.store.keptPath(name)
	if err != nil {
		return err
	}
	if err := m.Unmount(); err != nil {
		return err
	}
	if err := m.clear(); err != nil {
		return err
	}
	if _, err := m.normalize(context.Background(), &normalizer{exact: true}); err != nil {
		return err
	}
	text, err := json.MarshalIndent(keptFile{
		Version: keptVersion, Parent: m.parent, Mountpoints: slices.Sorted(maps.Keys(m.made)),
		Kept: time.Now().UTC().Truncate(time.Second), Description: description,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(m.dir, "mutable.json"), append(text, '\n'), 0o600); err != nil {
		return err
	}
	if err := unix.Syncfs(int(m.lock.Fd())); err != nil {
		return fmt.Errorf("write it to disk: %w", err)
	}
	if m.dir != path {
		if err := m.moveTo(path); err != nil {
			return err
		}
	}
	m.close()
	return nil
}

// moveTo gives the difference its place in failed/.
func (m *Mutable) moveTo(path string) error {
	if err := os.MkdirAll(m.store.failed, 0o700); err != nil {
		return err
	}
	older, err := lockFolder(path, locks.Exclusive)
	if err == nil {
		defer older.Close()
		err = m.store.dir.Remove(path, statedir.Overlays)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := unix.Rename(m.dir, path); err != nil {
		return err
	}
	return statedir.Sync(m.store.failed)
}

// Find returns what was kept under a name, to be mounted, and then dropped or
// kept again. It stays where it is: if the process dies, it is still kept. It
// fails with ErrNotFound, also for its parent, with ErrLocked if somebody has
// found it already, and with ErrInvalid.
func (s *Store) Find(ctx context.Context, name string) (*Mutable, error) {
	m, err := s.find(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kept layer %q: %w", name, err)
	}
	return m, nil
}

func (s *Store) find(ctx context.Context, name string) (*Mutable, error) {
	path, err := s.keptPath(name)
	if err != nil {
		return nil, err
	}
	lock, err := lockFolder(path, locks.Exclusive)
	if err != nil {
		return nil, err
	}
	m := &Mutable{store: s, dir: path, lock: lock, made: map[string]bool{}}
	if err := m.reopen(ctx); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// reopen reads mutable.json and takes hold of the parent.
func (m *Mutable) reopen(ctx context.Context) error {
	kept, err := readKept(m.dir)
	if err != nil {
		return err
	}
	m.parent = kept.Parent
	for _, path := range kept.Mountpoints {
		m.made[path] = true
	}
	if m.parent != "" {
		if m.held, err = m.store.use(ctx, m.parent); err != nil {
			return err
		}
	}
	_, err = m.store.chain(m.parent)
	return err
}

func readKept(dir string) (keptFile, error) {
	var kept keptFile
	text, err := statedir.ReadFile(filepath.Join(dir, "mutable.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !statedir.Irregular(err) {
		return kept, err
	}
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		return kept, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if info, err := os.Lstat(filepath.Join(dir, "fs")); kept.Version != keptVersion || err != nil || !info.IsDir() {
		return kept, fmt.Errorf("%w: mutable.json or fs is not what it should be", ErrInvalid)
	}
	return kept, nil
}

func (s *Store) keptPath(name string) (string, error) {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("%w: the name is no file name", ErrNotFound)
	}
	return filepath.Join(s.failed, name), nil
}
