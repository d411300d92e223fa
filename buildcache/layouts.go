package buildcache

import (
	"os"
	"path/filepath"
)

// AddLayout notes that images were put into the OCI layout at an absolute path.
// It may be lost without harm: then what an image there shares with the cache
// counts as the cache's alone.
func (c *Cache) AddLayout(path string) error {
	if c.HasLayout(path) {
		return nil
	}
	return c.jot(layoutName(path), path)
}

func layoutName(path string) string { return filepath.Join("layouts", short(path)+".json") }

// HasLayout tells whether AddLayout has noted a layout.
func (c *Cache) HasLayout(path string) bool {
	_, err := os.Lstat(c.path(layoutName(path)))
	return err == nil
}

// Layouts returns the paths of all layouts that are known and still there. The
// others are forgotten.
func (c *Cache) Layouts() ([]string, error) {
	var paths []string
	err := c.walk("layouts", func(name string) error {
		var path string
		if whole, err := c.readWhole(name, &path); !whole {
			return err
		}
		if _, err := os.Lstat(path); err == nil {
			paths = append(paths, path)
		} else {
			_ = os.Remove(c.path(name))
		}
		return nil
	})
	return paths, err
}
