package buildcache

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// twoTrees carries steps over to compatibility version 2, in which the difference of a
// step is a function of two trees. One without an opaque folder is taken to be what it
// would be now. Of others, and of those whose snapshots are not here, nothing is known:
// they are done again.
func twoTrees(c *Cache, r *Record) (keep bool, err error) {
	if !r.Inputs.replace("compatibility", "1", "2") || r.Kind != Rootfs {
		return true, nil
	}
	var result struct {
		Layers []struct {
			DiffID digest.Digest `json:"diff_id"`
		} `json:"layers"`
	}
	if json.Unmarshal(r.Result, &result) != nil {
		return false, nil
	}
	chain := digest.Digest(r.Inputs.value("base"))
	for _, layer := range result.Layers {
		if layer.DiffID.Validate() != nil {
			return false, nil
		}
		if chain == "" {
			chain = layer.DiffID
		} else {
			chain = identity.ChainID([]digest.Digest{chain, layer.DiffID})
		}
		if opaque, err := hasOpaque(c.path("snapshots", chain.Encoded(), "fs")); opaque || err != nil {
			return false, err
		}
	}
	return true, nil
}

// hasOpaque reports whether a snapshot may have an opaque folder. One that cannot be read
// may have one.
func hasOpaque(snapshot string) (bool, error) {
	err := filepath.WalkDir(snapshot, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
			if _, err := unix.Lgetxattr(path, name, nil); err == nil {
				return fs.ErrExist
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return true, nil
	}
	return false, err
}

// value returns the value of an input, or "".
func (in Inputs) value(name string) string {
	for _, input := range in {
		if input.Name == name {
			return input.Value
		}
	}
	return ""
}

// replace replaces a value of an input, and reports whether it was there.
func (in Inputs) replace(name, old, new string) bool {
	for i := range in {
		if in[i].Name == name && in[i].Value == old {
			in[i].Value = new
			return true
		}
	}
	return false
}
