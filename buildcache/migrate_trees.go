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

// A migration is what is known of a state folder while its records are carried over.
type migration struct {
	*Cache
	surroundings map[digest.Digest]surroundings // of runs, by the chain that they made
}

// surroundings are what labels are made in, besides what their records of compatibility
// version 1 tell.
type surroundings struct{ epoch, platform string }

// twoTrees carries steps over to compatibility version 2, in which the difference of a
// step is a function of two trees. One without an opaque folder is taken to be what it
// would be now. Of others, and of those whose snapshots are not here, nothing is known:
// they are done again. Labels depend on platform and epoch now, which are those of the
// run before them; where that is not known for certain they are made again.
func twoTrees(m *migration, r *Record) (keep bool, err error) {
	if !r.Inputs.replace("compatibility", "1", "2") {
		return true, nil
	}
	if r.Kind == Labels {
		return m.surround(r)
	}
	chains, ok := resultOf(r)
	for _, chain := range chains {
		if opaque, err := hasOpaque(m.path("snapshots", chain.Encoded(), "fs")); opaque || err != nil {
			return false, err
		}
	}
	return ok, nil
}

// resultOf returns the chains that a rootfs step made, from the lowest on, and whether the
// record tells them.
func resultOf(r *Record) (chains []digest.Digest, ok bool) {
	var result RootfsResult
	if json.Unmarshal(r.Result, &result) != nil {
		return nil, false
	}
	chain := digest.Digest(r.Inputs.value("base"))
	for _, layer := range result.Layers {
		if layer.DiffID.Validate() != nil {
			return nil, false
		}
		if chain == "" {
			chain = layer.DiffID
		} else {
			chain = identity.ChainID([]digest.Digest{chain, layer.DiffID})
		}
		chains = append(chains, chain)
	}
	return chains, true
}

// surround adds the surroundings of a run to the labels of what it made.
func (m *migration) surround(labels *Record) (known bool, err error) {
	if m.surroundings == nil {
		if err := m.findSurroundings(); err != nil {
			return false, err
		}
	}
	in := m.surroundings[digest.Digest(labels.Inputs.value("chain"))]
	labels.Inputs.Add(Epoch, "epoch", in.epoch)
	labels.Inputs.Add(Platform, "platform", in.platform)
	return in.platform != "", nil
}

func (m *migration) findSurroundings() error {
	m.surroundings = map[digest.Digest]surroundings{}
	return m.walk(filepath.Join("records", string(Rootfs)), func(name string) error {
		var r Record
		if whole, err := m.readWhole(name, &r); !whole {
			return err
		}
		made, _ := resultOf(&r)
		chain := digest.Digest(r.Inputs.value("base"))
		if len(made) > 0 {
			chain = made[len(made)-1]
		}
		in := surroundings{r.Inputs.value("epoch"), r.Inputs.value("platform")}
		if before, ok := m.surroundings[chain]; ok && before != in {
			in = surroundings{} // of two, nobody knows which
		}
		m.surroundings[chain] = in
		return nil
	})
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
