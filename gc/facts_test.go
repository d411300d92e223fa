package gc

import (
	"encoding/binary"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
)

// TestFacts asks what a state folder holds with facts that are missing, damaged,
// or of files that were changed or removed since.
func TestFacts(t *testing.T) {
	state := manySnapshots(t, 60)
	path := filepath.Join(state, factsName)
	read := func(path string) []byte {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
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
	good := read(path)
	count := 0
	for _, k := range decodeFacts(good) {
		count += k.count
	}
	if count != 180 {
		t.Errorf("%d facts about 60 snapshots, 60 blobs and 60 records", count)
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
	all := decodeFacts(read(path))
	k := all[snapshotsFolder]
	files := slices.Collect(k.all())
	r := factReader{left: files[30].says}
	r.number()
	r.number()
	r.number()
	files[30].says = saying([]int64{1, 1, 1000000}) + r.left
	all[snapshotsFolder] = openFacts(state).note(snapshotsFolder, k.stamp, files, 0)
	id := "sha256:" + files[30].name
	if err := os.WriteFile(path, encodeFacts(all), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := sizes()["layer "+id]; got < 1000000 {
		t.Errorf("the facts are not used: %d bytes", got)
	}
	file := filepath.Join(state, "snapshots", id[len("sha256:"):], "snapshot.json")
	text := read(file)
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
	if err := os.Remove(filepath.Join(filepath.Dir(file), "fs")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is not remembered as sound, nor forgotten
		if _, corrupt := sizes()["corrupt "+id]; !corrupt {
			t.Error("a snapshot whose fs is gone is not noticed")
		}
	}
}

// FuzzFacts reads whatever has a good checksum.
func FuzzFacts(f *testing.F) {
	f.Add(sealed(encodeFacts(map[string]known{"a": {buildcache.Stamp{Inode: 1, Changed: 2}, 1, "\x01b\x03\x04\x01c"}})))
	f.Add([]byte("\x01a\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		data := append([]byte(factsHead), body...)
		all := decodeFacts(binary.BigEndian.AppendUint32(data, crc32.Checksum(data, castagnoli)))
		if again := decodeFacts(encodeFacts(all)); !maps.Equal(again, all) {
			t.Fatalf("%v, then %v", all, again)
		}
		for _, k := range all {
			for at := range k.all() {
				r := factReader{left: at.says}
				r.number()
				r.text()
			}
		}
	})
}

// sealed returns what the checksum of facts is about.
func sealed(data []byte) []byte { return data[len(factsHead) : len(data)-crc32.Size] }
