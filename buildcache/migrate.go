package buildcache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// migrations lead a state folder from one version to the next: the first from 1 to 2,
// and so on. Each changes a record, and reports whether the record is carried over;
// there is no going back.
var migrations = []func(*migration, *Record) (keep bool, err error){
	networkAsInput,
	secretsRedacted,
	twoTrees,
}

// networkAsInput makes the network an input of steps that run something, since
// it can be chosen now. All steps had the host's.
func networkAsInput(_ *migration, r *Record) (keep bool, err error) {
	if r.Kind == Rootfs && has(r.Inputs, "run") || r.Kind == Labels {
		r.Inputs.Add(Definition, "network", "host")
	}
	return true, nil
}

// secretsRedacted changes nothing itself: from version 3 on each record is
// redacted as it is written, see migrateRecords.
func secretsRedacted(*migration, *Record) (keep bool, err error) { return true, nil }

func has(in Inputs, name string) bool {
	for _, input := range in {
		if input.Name == name {
			return true
		}
	}
	return false
}

// migrated are the folders of a state folder whose files change with its version.
var migrated = []string{"records", "latest"}

// migrate brings a state folder to StateVersion, one version at a time. The new
// folders are written whole beside the old ones; the old ones are there until
// the new version is durably written, and only then do the new ones take their
// place. So it can be killed at any point, and be run again.
func (c *Cache) migrate(ctx context.Context) error {
	if version, err := c.version(); err != nil || version == StateVersion && !c.unfinished() {
		return err
	}
	lock, err := c.dir.Use(ctx, locks.Exclusive) // waits for builds of the older layerbuild
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		version, err := c.version()
		if err != nil {
			return err
		}
		if err := c.finish(version); err != nil || version >= StateVersion {
			return err
		}
		if err := c.prepare(version + 1); err != nil {
			return err
		}
		if err := c.write("version", []byte(strconv.Itoa(version+1)+"\n")); err != nil {
			return err
		}
	}
}

// next is where a folder of a version is before it takes the old one's place.
func (c *Cache) next(folder string, version int) string {
	return c.path(folder + "." + strconv.Itoa(version))
}

// unfinished tells whether a migration to this version has folders to put in place.
func (c *Cache) unfinished() bool {
	for _, folder := range migrated {
		if _, err := os.Lstat(c.next(folder, StateVersion)); err == nil {
			return true
		}
	}
	return false
}

// finish puts the folders of a version in their place, those that are not yet.
func (c *Cache) finish(version int) error {
	for _, folder := range migrated {
		next := c.next(folder, version)
		if _, err := os.Lstat(next); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := c.drop(folder); err != nil {
			return err
		}
		if err := os.Rename(next, c.path(folder)); err != nil {
			return err
		}
	}
	return statedir.Sync(c.path())
}

// drop removes a folder of the state folder if it is there, at once as others see it.
func (c *Cache) drop(folder string) error {
	if err := c.dir.Remove(c.path(folder), "dropped-"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// prepare writes the folders of a version from those of the one before. What is
// damaged is left out: it would have been a miss.
func (c *Cache) prepare(version int) error {
	tmp, err := os.MkdirTemp(c.path("tmp"), "migration-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	to := &Cache{dir: statedir.Dir(tmp)}
	if err := os.Mkdir(to.path("tmp"), 0o700); err != nil {
		return err
	}
	keys, err := c.migrateRecords(to, version)
	if err != nil {
		return err
	}
	if err := c.migrateLatest(to, keys); err != nil {
		return err
	}
	for _, folder := range migrated {
		if err := os.MkdirAll(to.path(folder), 0o700); err != nil {
			return err
		}
		if err := os.RemoveAll(c.next(folder, version)); err != nil {
			return err
		}
		if err := os.Rename(to.path(folder), c.next(folder, version)); err != nil {
			return err
		}
	}
	return statedir.Sync(c.path())
}

// migrateRecords writes the records of a version, and returns what became of
// each key. A record whose inputs do not have its key is left out: a damaged one,
// or one that is redacted, whose new key nobody can tell. Its step is done again.
func (c *Cache) migrateRecords(to *Cache, version int) (map[Key]Key, error) {
	keys, m := map[Key]Key{}, &migration{Cache: c}
	err := c.walk("records", func(name string) error {
		var r Record
		if whole, err := c.readWhole(name, &r); !whole {
			return err
		}
		if r.Version != version-1 || r.Inputs.key(r.Kind, r.Version) != r.Key {
			return nil
		}
		if keep, err := migrations[version-2](m, &r); !keep {
			return err
		}
		old := r.Key
		r.Version, r.Key = version, r.Inputs.key(r.Kind, version)
		keys[old] = r.Key
		inputs, err := c.redact(r.Inputs)
		if err != nil {
			return err
		}
		r.Inputs = inputs
		data, err := seal(r)
		if err != nil {
			return err
		}
		return to.write(recordName(r.Kind, r.Key), data)
	})
	return keys, err
}

// readWhole decodes a sealed file, and tells whether it could. A damaged one is
// put aside. A disk that cannot be read now is an error: what is on it may be
// whole, and is not given up.
func (c *Cache) readWhole(name string, v any) (whole bool, err error) {
	err = c.read(name, v)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// migrateLatest writes what is known of last builds with the new keys.
func (c *Cache) migrateLatest(to *Cache, keys map[Key]Key) error {
	return c.walk("latest", func(name string) error {
		var file json.RawMessage
		if whole, err := c.readWhole(name, &file); !whole {
			return err
		}
		var latest Latest
		if json.Unmarshal(file, &latest) != nil || latest.Keys == nil {
			return to.reseal(name, file)
		}
		for kind, key := range latest.Keys {
			latest.Keys[kind] = keys[key]
		}
		return to.reseal(name, latest)
	})
}

func (c *Cache) reseal(name string, v any) error {
	data, err := seal(v)
	if err != nil {
		return err
	}
	return c.write(name, data)
}

// walk calls do with the name of each file below a folder of the state folder, also of what stands
// in the place of one.
func (c *Cache) walk(folder string, do func(name string) error) error {
	return filepath.WalkDir(c.path(folder), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		isFile := !entry.IsDir() || strings.HasSuffix(path, ".json")
		if err != nil || !isFile {
			return err
		}
		name, err := filepath.Rel(c.path(), path)
		if err == nil {
			err = do(name)
		}
		if err == nil && entry.IsDir() {
			return fs.SkipDir
		}
		return err
	})
}
