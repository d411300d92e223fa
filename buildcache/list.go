package buildcache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/statedir"
)

// A Folder is one of those that records, or last builds, are spread over.
type Folder struct {
	Name string // in the state folder
	Stamp
}

// A Stamp tells a file from any other that was or will be at its place. That of a
// folder is another one whenever a file came, went or was replaced in it.
type Stamp struct {
	Inode   uint64
	Changed int64 // ctime, in nanoseconds since 1970
}

func stampOf(st *unix.Stat_t) Stamp { return Stamp{st.Ino, unix.TimespecToNsec(st.Ctim)} }

// Record returns which record a file of a Folder holds; false if it holds none.
func (f Folder) Record(file string) (kind Kind, key Key, ok bool) {
	name, json := strings.CutSuffix(file, ".json")
	return Kind(filepath.Base(filepath.Dir(f.Name))), Key(name), json && len(name) == 64
}

// An Entry is one file of a Folder. It is written once.
type Entry struct {
	Folder string // in the state folder
	Name   string // in that
	Disk   int64  // bytes allocated on disk
	Time   int64  // when it was written, in seconds since 1970
	Stamp
}

// RecordFolders returns the folders of the records of some kinds.
func (c *Cache) RecordFolders(kinds ...Kind) ([]Folder, error) {
	var all []Folder
	for _, kind := range kinds {
		folders, err := c.folders(filepath.Join("records", string(kind)))
		if err != nil {
			return nil, err
		}
		all = append(all, folders...)
	}
	return all, nil
}

// LatestFolders returns the folders of the last builds of all stackerfiles.
func (c *Cache) LatestFolders() ([]Folder, error) { return c.folders("latest") }

// folders returns the folders in a folder.
func (c *Cache) folders(folder string) ([]Folder, error) {
	var all []Folder
	err := c.each(folder, func(name string, st *unix.Stat_t) {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			all = append(all, Folder{folder + "/" + name, stampOf(st)})
		}
	})
	return all, err
}

// Files lists the files in a folder, without reading them.
func (c *Cache) Files(f Folder) ([]Entry, error) {
	var all []Entry
	err := c.each(f.Name, func(name string, st *unix.Stat_t) {
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			all = append(all, Entry{f.Name, name, st.Blocks * 512, st.Mtim.Sec, stampOf(st)})
		}
	})
	return all, err
}

// each looks at all that is in a folder, in the order of the names. One that is not
// there is empty.
func (c *Cache) each(folder string, do func(name string, st *unix.Stat_t)) error {
	dir, err := os.OpenFile(c.path(folder), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || statedir.Irregular(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			do(name, &st)
		}
	}
	return err
}

// Records lists the records of some kinds, without reading them.
func (c *Cache) Records(ctx context.Context, kinds ...Kind) ([]Entry, error) {
	folders, err := c.RecordFolders(kinds...)
	var all []Entry
	for _, folder := range folders {
		var files []Entry
		if files, err = c.Files(folder); err != nil || ctx.Err() != nil {
			return nil, cmp.Or(err, context.Cause(ctx))
		}
		all = append(all, files...)
	}
	return all, err
}

// Each calls do with every record of a list that is sound, some at a time. It
// does not check their sums, and puts nothing aside: see Check.
func (c *Cache) Each(ctx context.Context, list []Entry, do func(Entry, *Record)) error {
	return read(ctx, c, list, do)
}

// EachLatest does the same with last builds.
func (c *Cache) EachLatest(ctx context.Context, list []Entry, do func(Entry, *Latest)) error {
	return read(ctx, c, list, do)
}

func read[T any](ctx context.Context, c *Cache, list []Entry, do func(Entry, *T)) error {
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() error {
			for i := w; i < len(list) && ctx.Err() == nil; i += workers {
				var file struct{ Record T }
				if data, err := statedir.ReadFile(c.path(list[i].Folder, list[i].Name)); err == nil && json.Unmarshal(data, &file) == nil {
					do(list[i], &file.Record)
				}
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// RemoveRecord removes a record. That it is not there is no error.
func (c *Cache) RemoveRecord(kind Kind, key Key) error {
	err := os.Remove(c.path(recordName(kind, key)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// CheckFiles reads every record, latest build and tombstone, and calls bad with the name of each that is
// damaged. It returns how many it read.
func (c *Cache) CheckFiles(ctx context.Context, bad func(name string, err error)) (read int, err error) {
	for _, folder := range []string{"records", "latest", "tombstones"} {
		err := c.walk(folder, func(name string) error {
			if !strings.HasSuffix(name, ".json") {
				return ctx.Err()
			}
			read++
			data, err := statedir.ReadFile(c.path(name))
			var any json.RawMessage
			if err == nil {
				err = unseal(data, &any)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				bad(name, err)
			}
			return ctx.Err()
		})
		if err != nil {
			return read, err
		}
	}
	return read, nil
}

// PutAside moves a damaged file, by its name in the state folder, to corrupt/.
func (c *Cache) PutAside(name string) { c.putAside(name) }

// Keys returns the keys of records that begin with some digits, at least two.
func (c *Cache) Keys(kind Kind, prefix string) ([]Key, error) {
	files, err := filepath.Glob(c.path("records", string(kind), prefix[:2], prefix+"*.json"))
	var keys []Key
	for _, file := range files {
		keys = append(keys, Key(strings.TrimSuffix(filepath.Base(file), ".json")))
	}
	return keys, err
}
