package buildcache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// An Entry is one record as a listing shows it.
type Entry struct {
	Kind Kind
	Key  Key
	Disk int64 // bytes allocated on disk
	Time int64 // when it was written, in seconds since 1970
}

// Entries lists the records of some kinds, without reading them.
func (c *Cache) Entries(ctx context.Context, kinds ...Kind) ([]Entry, error) {
	var all []Entry
	for _, kind := range kinds {
		err := c.walk(filepath.Join("records", string(kind)), func(name string) error {
			key, ok := strings.CutSuffix(filepath.Base(name), ".json")
			var st unix.Stat_t
			if !ok || len(key) != 64 || unix.Lstat(c.path(name), &st) != nil {
				return ctx.Err()
			}
			all = append(all, Entry{kind, Key(key), st.Blocks * 512, st.Mtim.Sec})
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Each calls do with every record of a list that is sound, some at a time. It
// does not check their sums, and puts nothing aside: see Check.
func (c *Cache) Each(ctx context.Context, list []Entry, do func(*Record)) error {
	group, ctx := errgroup.WithContext(ctx)
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() error {
			for i := w; i < len(list) && ctx.Err() == nil; i += workers {
				data, err := os.ReadFile(c.path(recordName(list[i].Kind, list[i].Key)))
				var file struct{ Record Record }
				if err == nil && json.Unmarshal(data, &file) == nil {
					do(&file.Record)
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

// AllLatest returns the last builds of all layers of all stackerfiles.
func (c *Cache) AllLatest() ([]Latest, error) {
	var all []Latest
	err := c.walk("latest", func(name string) error {
		var file struct{ Record Latest }
		data, err := os.ReadFile(c.path(name))
		if err == nil && json.Unmarshal(data, &file) == nil && file.Record.Layer != "" {
			all = append(all, file.Record)
		}
		return nil
	})
	return all, err
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
			data, err := os.ReadFile(c.path(name))
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
