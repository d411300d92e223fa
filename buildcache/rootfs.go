package buildcache

import (
	"encoding/json"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// A RootfsResult is the result of a rootfs step: the layers that it adds to its base, from the
// lowest up.
type RootfsResult struct {
	Layers []AddedLayer `json:"layers"`
}

// An AddedLayer is one layer of a RootfsResult.
type AddedLayer struct {
	DiffID digest.Digest `json:"diff_id"`
	By     string        `json:"by"` // what made it, for the image's history
}

// A LayerID names a layer by what it holds and by what it lies on.
type LayerID struct {
	DiffID  digest.Digest
	ChainID digest.Digest // of the layer and all below it
}

// AddedLayers returns the layers that the result of a rootfs record adds to its base, from the
// lowest up. It returns none for records of other kinds.
func (r *Record) AddedLayers() []LayerID {
	var result RootfsResult
	if r.Kind != Rootfs || json.Unmarshal(r.Result, &result) != nil {
		return nil
	}
	var chain []digest.Digest
	for _, in := range r.Inputs {
		if in.Name == "base" && strings.HasPrefix(in.Value, "sha256:") {
			chain = append(chain, digest.Digest(in.Value))
		}
	}
	for _, layer := range result.Layers {
		chain = append(chain, layer.DiffID)
	}
	identity.ChainIDs(chain)
	ids := chain[len(chain)-len(result.Layers):]
	added := make([]LayerID, len(ids))
	for i, id := range ids {
		added[i] = LayerID{result.Layers[i].DiffID, id}
	}
	return added
}

// Packs returns the DiffID of the layer that a pack record is of, or "" for any other record.
func (r *Record) Packs() digest.Digest {
	if r.Kind != Pack {
		return ""
	}
	return digest.Digest(r.Inputs.value("diff"))
}
