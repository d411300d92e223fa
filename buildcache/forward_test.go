package buildcache

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestNewerFields reads a record with fields that only a newer layerbuild knows: it is a
// hit, and stays as it is.
func TestNewerFields(t *testing.T) {
	state := t.TempDir()
	c := open(t, state)
	in := Inputs{{Code: Definition, Name: "run", Value: "make"}}
	r, err := c.Put(Rootfs, in, "x", 0, Origin{Layer: "l"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	fields["newer"] = []string{"a"}
	fields["origin"].(map[string]any)["newer"] = true
	if err := c.reseal(recordName(Rootfs, r.Key), fields); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(filepath.Join(state, recordName(Rootfs, r.Key)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(Rootfs, in.Key(Rootfs))
	if err != nil || got.Origin.Layer != "l" || string(got.Result) != `"x"` {
		t.Errorf("it is %+v, %v", got, err)
	}
	if after, err := os.ReadFile(filepath.Join(state, recordName(Rootfs, r.Key))); err != nil || string(after) != string(written) {
		t.Errorf("it was changed (%v)", err)
	}
}
