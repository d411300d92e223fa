// Package caches keeps the folders that steps share with later builds: those of
// compilers and package managers. They belong to no image, and what is in them is
// never an input of anything.
//
// On disk, readable by their owner only:
//
//	caches/<sha256 of the id, 32 digits>-<copy>/data        what steps see
//	caches/<sha256 of the id, 32 digits>-<copy>/cache.json  the id
//	caches/<sha256 of the id, 32 digits>-<copy>/holder.json who took it last
//
// Any number of processes may use one Store. They agree by flock(2) on the folder of a
// copy, which ends with the process: who was killed leaves the cache as it was then, and
// the next one goes on with that. Copy 0 is the cache; others are for those who want it
// for themselves while it is taken.
package caches

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// ErrInvalid says that what is there is no cache.
var ErrInvalid = errors.New("damaged cache")

// A Store is the caches of one state folder.
type Store struct{ state string }

// Open returns the store in a state folder that exists. Nothing is made before a
// cache is taken.
func Open(state string) *Store { return &Store{state} }

// A Cache is one that was taken. It is given back by Release, or the process's end.
type Cache struct {
	Name string // of the copy
	Path string // of the folder that a step sees
	lock *os.File
}

// Release gives the cache back.
func (c *Cache) Release() { _ = c.lock.Close() }

// Take takes the cache of an id, and makes it when there is none: an empty folder,
// root's, of mode 0755. By sharing, one of layers' words, it may be others' at the same
// time, or is waited for, or is a copy that nobody else has.
func (s *Store) Take(ctx context.Context, id, sharing string) (*Cache, error) {
	how := locks.Exclusive
	if sharing == layers.SharingShared {
		how = locks.Shared
	}
	for n := 0; ; {
		name := copyName(id, n)
		dir, err := s.open(name, id)
		if err != nil {
			return nil, fmt.Errorf("cache %q: %w", id, err)
		}
		if sharing == layers.SharingPrivate {
			err = locks.Try(dir, how)
		} else {
			err = locks.Wait(ctx, dir, how, fmt.Sprintf("has had the cache %q", id), holder)
		}
		switch {
		case errors.Is(err, locks.ErrHeld):
			n++
		case err == nil && locks.Current(dir, dir.Name()):
			s.sign(dir.Name(), locks.Me(ctx))
			return &Cache{name, filepath.Join(dir.Name(), "data"), dir}, nil
		}
		dir.Close()
		if err != nil && !errors.Is(err, locks.ErrHeld) {
			return nil, err
		}
	}
}

// copyName is the name of a folder: 32 digits of the id's digest, and which copy it is.
func copyName(id string, n int) string {
	sum := sha256.Sum256([]byte(id))
	return fmt.Sprintf("%x-%d", sum[:16], n)
}

func (s *Store) path(name string) string { return filepath.Join(s.state, "caches", name) }

// open opens the folder of a copy, and makes it if need be.
func (s *Store) open(name, id string) (*os.File, error) {
	for {
		dir, err := os.OpenFile(s.path(name), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		switch {
		case statedir.Irregular(err):
			err = statedir.Dir(s.state).PutOddAside(s.path(name))
		case errors.Is(err, fs.ErrNotExist):
			err = s.create(name, id)
		case err == nil:
			if err = s.mend(name); err == nil {
				return dir, nil
			}
			dir.Close()
		}
		if err != nil {
			return nil, err
		}
	}
}

// mend makes the folder of a cache's content if something else, or nothing, is in its place.
func (s *Store) mend(name string) error {
	data := filepath.Join(s.path(name), "data")
	if info, err := os.Lstat(data); err == nil && info.IsDir() {
		return nil
	} else if err == nil {
		if err := statedir.Dir(s.state).PutOddAside(data); err != nil {
			return err
		}
	}
	if err := os.Mkdir(data, 0o755); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// cacheFile is the content of cache.json.
type cacheFile struct {
	ID string `json:"id"`
}

// create makes an empty cache at once, unless another process is faster.
func (s *Store) create(name, id string) error {
	if err := os.MkdirAll(s.path(""), 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.state, "tmp"), "cache-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(data, 0o755); err != nil { // whatever the umask
		return err
	}
	if err := os.Chtimes(data, time.Time{}, time.Unix(0, 0)); err != nil { // a run sees it
		return err
	}
	text, err := json.Marshal(cacheFile{id})
	if err == nil {
		err = renameio.WriteFile(filepath.Join(dir, "cache.json"), append(text, '\n'), 0o600)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(dir, s.path(name)); !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func holderFile(dir string) string { return filepath.Join(dir, "holder.json") }

// sign notes who has a cache. Those who wait do without, if it fails.
func (s *Store) sign(dir string, h locks.Holder) {
	if text, err := json.Marshal(h); err == nil {
		_ = statedir.Dir(s.state).Jot(holderFile(dir), append(text, '\n'))
	}
}

// holder reads who took a cache last; the zero Holder has not signed yet.
func holder(dir *os.File) (h locks.Holder, say bool) { return holderIn(dir.Name()), true }

func holderIn(dir string) (h locks.Holder) {
	if text, err := statedir.ReadFile(holderFile(dir)); err == nil {
		_ = json.Unmarshal(text, &h)
	}
	return h
}

// A Stored cache is one of those that List found.
type Stored struct {
	Name    string
	ID      string
	Copy    int // 0 is the cache itself
	Path    string
	Created time.Time
	Used    time.Time // when it was taken last
	Layer   string    // that took it last; "" if that is not known
	Inode   uint64    // of what is locked while it is in use
	Err     error     // ErrInvalid
}

// List returns all caches and their copies.
func (s *Store) List() ([]Stored, error) {
	entries, err := os.ReadDir(s.path(""))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Stored
	for _, e := range entries {
		c := s.look(e.Name())
		if !errors.Is(c.Err, fs.ErrNotExist) { // removed just now
			all = append(all, c)
		}
	}
	return all, nil
}

// look reads what is known of a cache.
func (s *Store) look(name string) Stored {
	c := Stored{Name: name, Path: s.path(name)}
	var st unix.Stat_t
	if c.Err = unix.Lstat(c.Path, &st); c.Err != nil {
		return c
	}
	c.Inode = st.Ino
	info, err := os.Stat(filepath.Join(c.Path, "cache.json"))
	if err == nil {
		c.Created = info.ModTime()
		c.ID, c.Copy, err = s.parse(name)
	}
	if info, err := os.Stat(holderFile(c.Path)); err == nil {
		c.Used, c.Layer = info.ModTime(), holderIn(c.Path).Layer
	}
	if data, dataErr := os.Lstat(filepath.Join(c.Path, "data")); err == nil && (dataErr != nil || !data.IsDir()) {
		err = errors.New("it has no folder data")
	}
	if _, gone := os.Lstat(c.Path); gone != nil {
		err = gone
	} else if err != nil {
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.Err = err
	return c
}

// parse reads the id of a cache, and which copy it is.
func (s *Store) parse(name string) (id string, n int, err error) {
	text, err := statedir.ReadFile(filepath.Join(s.path(name), "cache.json"))
	if err != nil {
		return "", 0, err
	}
	var c cacheFile
	if err := json.Unmarshal(text, &c); err != nil {
		return "", 0, err
	}
	if len(name) < 34 {
		return "", 0, errors.New("its name is none of a cache")
	}
	if n, err = strconv.Atoi(name[33:]); err != nil || name != copyName(c.ID, n) {
		return "", 0, fmt.Errorf("its name is not that of %q", c.ID)
	}
	return c.ID, n, nil
}

// InUse reports whether a step has the cache.
func (s *Store) InUse(name string) bool {
	dir, err := s.lock(name)
	if err == nil {
		dir.Close()
	}
	return errors.Is(err, locks.ErrHeld)
}

// lock locks a cache for oneself.
func (s *Store) lock(name string) (*os.File, error) {
	return locks.TryOpen(s.path(name), os.O_RDONLY, locks.Exclusive)
}

// Remove removes a cache, unless it is in use: locks.ErrHeld.
func (s *Store) Remove(name string) error {
	return s.locked(name, func(path string) error { return statedir.Dir(s.state).Remove(path, "cache-") })
}

// PutAside moves a cache that is not in use to the state folder's corrupt, for inspection.
func (s *Store) PutAside(name string) error {
	return s.locked(name, func(path string) error {
		_, err := statedir.Dir(s.state).PutAside(path, "cache-"+name)
		return err
	})
}

// locked calls do with the path of a cache that nobody uses, unless it is gone.
func (s *Store) locked(name string, do func(path string) error) error {
	dir, err := s.lock(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(s.path(name))
}
