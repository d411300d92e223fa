package buildcache

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Whatever the files of a state folder hold, they are what they should be or count as
// not there.
func FuzzFiles(f *testing.F) {
	in := Inputs{{Code: Definition, Name: "run", Value: "make"}}
	key := in.Key(Rootfs)
	sealed, err := seal(Record{Version: FormatVersion, Kind: Rootfs, Key: key, Inputs: in, Result: json.RawMessage("1")})
	if err != nil {
		f.Fatal(err)
	}
	journal, err := seal(json.RawMessage(`{"version":1}`))
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{sealed, journal, sealed[:len(sealed)-3], []byte("{}"), []byte("1700000000 3 abc def\n\x00"), nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Open(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, name := range []string{
			recordName(Rootfs, key), latestName("/s.yaml", "x"), tombstoneName(BurySnapshot, "a"), resolutionName("q"), "usage/log", "usage/totals", "layouts/a", "builds/1.json",
		} {
			path := c.path(name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := c.Get(Rootfs, key); err == nil && (r.Key != key || r.Kind != Rootfs || r.Version != FormatVersion) {
			t.Errorf("%+v is taken for the record of another step", r)
		}
		if report, err := c.Build(1); err == nil && !json.Valid(report) {
			t.Errorf("%q is taken for a journal", report)
		}
		_, _ = c.Latest("/s.yaml", "x")
		_, _ = c.LatestOf("x")
		_, _ = c.Tombstone(BurySnapshot, "a")
		_, _ = c.Resolution("q")
		_, _ = c.Layouts()
		if _, err := c.Usage(); err != nil {
			t.Errorf("the count of uses: %v", err)
		}
		if err := c.Used(time.Now(), []string{"ab"}); err != nil {
			t.Errorf("counting a use: %v", err)
		}
	})
}
