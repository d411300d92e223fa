package build

import (
	"crypto/sha256"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestFacts asks what a state folder holds with facts that are missing, damaged,
// or of files that were changed or removed since.
func TestFacts(t *testing.T) {
	state := manySnapshots(t, 60)
	path := filepath.Join(state, factsName)
	time.Sleep(factsGrain) // what is younger is not kept
	sizes := func() map[string]int64 {
		t.Helper()
		u, err := DiskUsage(t.Context(), state, nil)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]int64{}
		for _, i := range u.Items {
			all[i.Type+" "+i.ID] = i.Bytes()
		}
		return all
	}
	want := sizes()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(decodeFacts(good)); n <= 120 {
		t.Errorf("%d facts about 60 snapshots, 60 records and their folders", n)
	}
	for name, data := range map[string][]byte{
		"good": good, "cut": good[:len(good)/2], "empty": {}, "flipped": append([]byte{good[0] ^ 1}, good[1:]...), "none": nil,
	} {
		err := os.WriteFile(path, data, 0o600)
		if data == nil {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := sizes(); !maps.Equal(got, want) {
			t.Errorf("with %s facts: %v, not %v", name, got, want)
		}
	}

	// They are believed while the file is the same, and no longer.
	all := decodeFacts(must(os.ReadFile(path)))
	var id string
	for name, at := range all {
		if filepath.Dir(name) == "." && len(at.words) == 10 {
			at.words[2], id = "1000000", name
		}
	}
	if err := os.WriteFile(path, encodeFacts(all), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sizes()["layer "+id]; got < 1000000 {
		t.Errorf("the facts are not used: %d bytes", got)
	}
	file := filepath.Join(state, "snapshots", id[len("sha256:"):], "snapshot.json")
	text := must(os.ReadFile(file))
	if err := os.Rename(file, file+".old"); err != nil {
		t.Fatal(err)
	}
	if _, corrupt := sizes()["corrupt "+id]; !corrupt {
		t.Error("a snapshot.json that is gone is not noticed")
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sizes()["layer "+id]; got >= 1000000 {
		t.Error("facts of another file are used")
	}
}

// FuzzFacts reads whatever has a good checksum.
func FuzzFacts(f *testing.F) {
	one := encodeFacts(map[string]*fact{"a": {inode: 1, changed: 2, words: []string{"", "b"}}})
	f.Add(one[len(factsHead) : len(one)-sha256.Size])
	f.Fuzz(func(t *testing.T, body []byte) {
		data := append([]byte(factsHead), body...)
		sum := sha256.Sum256(data)
		all := decodeFacts(append(data, sum[:]...))
		again := decodeFacts(encodeFacts(all))
		for name, at := range all {
			if b := again[name]; b == nil || b.inode != at.inode || b.changed != at.changed || !slices.Equal(b.words, at.words) {
				t.Fatalf("%q: %v, then %v", name, at, b)
			}
		}
	})
}
