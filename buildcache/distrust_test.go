package buildcache

import (
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// What a key vouched for goes, and so does what is built on it, whoever vouched for that.
// All else stays.
func TestDistrust(t *testing.T) {
	c, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	base, diff, top := digest.FromString("base"), digest.FromString("diff"), digest.FromString("top")
	type layer struct {
		DiffID digest.Digest `json:"diff_id"`
	}
	type rootfs struct {
		Layers []layer `json:"layers"`
	}
	put := func(by string, kind Kind, code Code, name, value string, result any) Key {
		t.Helper()
		c.VouchAs(by)
		r, err := c.Put(kind, Inputs{{Code: code, Name: name, Value: value}}, result, 0, Origin{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Key
	}
	gone := map[Key]Kind{
		put("bad", Rootfs, BaseChange, "base", string(base), rootfs{[]layer{{diff}}}): Rootfs,
	}
	chain := identity.ChainID([]digest.Digest{base, diff})
	gone[put("good", Rootfs, BaseChange, "base", string(chain), rootfs{[]layer{{top}}})] = Rootfs
	gone[put("", Labels, BaseChange, "chain", string(identity.ChainID([]digest.Digest{chain, top})), map[string]string{})] = Labels
	gone[put("good", Pack, BaseChange, "diff", string(diff), map[string]string{})] = Pack
	stays := map[Key]Kind{
		put("good", Labels, BaseChange, "chain", string(base), map[string]string{}): Labels,
		put("", Pack, BaseChange, "diff", string(base), map[string]string{}):        Pack,
	}
	if n, err := c.Distrust("bad"); n != len(gone) || err != nil {
		t.Errorf("%d records went, %v; want %d", n, err, len(gone))
	}
	for key, kind := range gone {
		if _, err := c.Get(kind, key); err == nil {
			t.Errorf("a %s record is still there", kind)
		}
	}
	for key, kind := range stays {
		if _, err := c.Get(kind, key); err != nil {
			t.Errorf("a %s record: %v", kind, err)
		}
	}
	if n, err := c.Distrust("good"); n != 1 || err != nil {
		t.Errorf("%d records went, %v; want the one that is left", n, err)
	}
}
