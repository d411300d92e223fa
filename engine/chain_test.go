package engine

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/progress"
)

// TestChainIDs names chains as the OCI image spec does, by its recursion: the
// ChainID of one layer is its DiffID, that of more the digest of the ChainID below
// and the DiffID.
func TestChainIDs(t *testing.T) {
	var c *chain
	if c.ID() != "" || len(c.all()) != 0 {
		t.Errorf("the empty rootfs is %q", c.ID())
	}
	var want digest.Digest
	for _, text := range []string{"a", "b", "a"} {
		diff := digest.FromString(text)
		c = c.with(oci.Layer{DiffID: diff})
		if want == "" {
			want = diff
		} else {
			want = digest.FromString(string(want) + " " + string(diff))
		}
		if c.ID() != want {
			t.Errorf("%s is %s, want %s", text, c.ID(), want)
		}
	}
	if all := c.all(); len(all) != 3 || all[0].ID() != digest.FromString("a") || all[2] != c {
		t.Errorf("the chain has %d layers", len(all))
	}
}

// TestOneBlob sets blobs for a layer: another one beside one that is there is an
// error, the same one is nothing, one that is not there is refused.
func TestOneBlob(t *testing.T) {
	state := t.TempDir()
	b, err := open(t.Context(), Options{StateDir: state, OCIDir: filepath.Join(state, "oci"), Sink: progress.NewPlain(t.Output(), progress.Verbose)}, &layers.Graph{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	blob := func(text string) oci.Descriptor {
		d, err := b.Blobs.PutBytes(t.Context(), ispec.MediaTypeImageLayerGzip, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	one, other := blob("one"), blob("other")
	missing := one
	missing.Digest = digest.FromString("missing")
	diff := digest.FromString("diff")
	l := &layers.Layer{Name: "app", File: &layers.Stackerfile{}}
	set := func(d oci.Descriptor) bool {
		err := b.keepPacked(t.Context(), l, oci.Layer{Descriptor: d, DiffID: diff}, time.Second)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	}
	blobOf := func() digest.Digest {
		d, err := buildcache.Recall(t.Context(), b.session, b.packStep(buildcache.Origin{}, diff))
		if err != nil {
			t.Fatal(err)
		}
		return d.Digest
	}
	if set(missing) {
		t.Error("a blob that is not in the store was set")
	}
	if !set(one) || blobOf() != one.Digest {
		t.Fatal("the first blob was not set")
	}
	record := filepath.Join(state, "records", "pack", string(b.packInputs(diff).Key(buildcache.Pack))[:2], string(b.packInputs(diff).Key(buildcache.Pack))+".json")
	before, err := os.Stat(record)
	if err != nil {
		t.Fatal(err)
	}
	if !set(one) {
		t.Error("the same blob was not set again")
	}
	if after, err := os.Stat(record); err != nil || !os.SameFile(before, after) {
		t.Errorf("to set the same blob again wrote a record (%v)", err)
	}
	if set(other) || blobOf() != one.Digest {
		t.Error("another blob was set beside the first")
	}
	if err := os.Remove(b.Blobs.Path(one.Digest)); err != nil {
		t.Fatal(err)
	}
	if !set(other) || blobOf() != other.Digest {
		t.Error("another blob was not set in place of one that is lost")
	}
}
