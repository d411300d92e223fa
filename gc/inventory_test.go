package gc

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/stores"
)

var many = flag.Int("snapshots", 300, "how many snapshots the state folder of TestMany and the benchmarks has")

// manySnapshots makes a state folder of n snapshots with packed layers and
// records, in chains of ten.
func manySnapshots(t testing.TB, n int) string {
	t.Helper()
	state := t.TempDir()
	set, err := stores.Open(t.Context(), state, imports.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	var uses []string
	var parent digest.Digest
	for i := range n {
		if i%10 == 0 {
			parent = ""
		}
		diff := digest.FromString(fmt.Sprint(i))
		id := diff
		if parent != "" {
			id = identity.ChainID([]digest.Digest{parent, diff})
		}
		dir := filepath.Join(state, "snapshots", id.Encoded())
		text, err := json.Marshal(map[string]any{
			"version": 1, "chainID": id, "diffID": diff, "parent": parent, "size": 8192, "inodes": 2,
			"created": time.Unix(1e9+int64(i), 0).UTC(), "kind": KindLayer, "description": fmt.Sprintf("layer %d of ./stacker.yaml", i),
		})
		if err == nil {
			err = os.MkdirAll(filepath.Join(dir, "fs"), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "snapshot.json"), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		blob := fmt.Appendf(nil, "packed %d", i)
		d := oci.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		if err := os.WriteFile(set.Blobs.Path(d.Digest), blob, 0o444); err != nil {
			t.Fatal(err)
		}
		in := buildcache.Inputs{{Code: buildcache.BaseChange, Name: "diff", Value: string(diff)}}
		record, err := json.Marshal(map[string]any{"sha256": "", "record": map[string]any{
			"version": buildcache.FormatVersion, "kind": buildcache.Pack, "key": "", "inputs": in, "result": d,
		}})
		if err != nil {
			t.Fatal(err)
		}
		key := string(in.Key(buildcache.Pack))
		path := filepath.Join(state, "records", "pack", key[:2], key+".json")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, record, 0o600); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			uses = append(uses, id.Encoded())
		}
		parent = id
	}
	if err := set.Cache.Used(time.Now(), uses); err != nil {
		t.Fatal(err)
	}
	return state
}

// TestMany prunes half of many snapshots: those that were not used first, no
// parent before its child, and no more than it takes.
func TestMany(t *testing.T) {
	state := manySnapshots(t, *many)
	before, err := DiskUsage(t.Context(), state, nil)
	if err != nil {
		t.Fatal(err)
	}
	layer := func(u *Usage) (n int) {
		for _, i := range u.Items {
			if i.Type == KindLayer {
				n++
			}
		}
		return n
	}
	if n := layer(before); n != *many {
		t.Fatalf("%d layers, not %d", n, *many)
	}
	gone := map[string]bool{}
	children := map[string]int{}
	for _, i := range before.Items {
		children[i.Parent]++
	}
	rule := Rule{All: true, Filters: []Filter{{key: "type", op: "==", value: KindLayer}}, MaxUsed: Size{Bytes: before.Size - before.Size/4}}
	err = Prune(t.Context(), PruneOptions{StateDir: state, Rules: []Rule{rule}, Removed: func(r Removed) {
		if gone[r.Item.ID] = true; children[r.Item.ID] > 0 {
			t.Errorf("%s is removed before what stands on it", r.Item.ID)
		}
		children[r.Item.Parent]--
	}})
	if err != nil {
		t.Fatal(err)
	}
	after, err := DiskUsage(t.Context(), state, nil)
	if err != nil {
		t.Fatal(err)
	}
	if layer(after)+len(gone) != *many {
		t.Errorf("%d layers are left after %d of %d went", layer(after), len(gone), *many)
	}
	if over := before.Size - before.Size/4 - after.Size + after.Other.Size - before.Other.Size; over < 0 || over > 100_000 {
		t.Errorf("%d bytes more than needed are gone", over)
	}
}

// TestPruneListsOnce removes some things, and twice as many: no folder that all of
// them are in, or named in, is listed more often for that.
func TestPruneListsOnce(t *testing.T) {
	few, many := listings(t, 40), listings(t, 80)
	for folder, n := range few {
		if n == 0 || many[folder] > n+2 {
			t.Errorf("%s is listed %d times to remove 40 things, %d times for 80", folder, n, many[folder])
		}
	}
}

// listings prunes n snapshots and n trees, and counts how often folders are listed
// for it. To be told apart in the queue of inotify(7), two listings need
// something else between them: what is removed.
func listings(t *testing.T, n int) map[string]int {
	t.Helper()
	state := manySnapshots(t, n)
	folders := []string{"snapshots", "mirrors/latest", "statindex/trees", "layout/blobs/sha256", "trees/ab"}
	for _, folder := range folders {
		if err := os.MkdirAll(filepath.Join(state, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		tree := "ab" + digest.FromString(fmt.Sprint("tree", i)).Encoded()[2:]
		err := os.WriteFile(filepath.Join(state, "trees/ab", tree), nil, 0o600)
		if err == nil {
			err = os.WriteFile(filepath.Join(state, "mirrors/latest", fmt.Sprint(i)), []byte("sha256:"+tree), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	watched := map[int32]string{}
	for _, folder := range folders {
		wd, err := unix.InotifyAddWatch(fd, filepath.Join(state, folder), unix.IN_ACCESS|unix.IN_MOVED_FROM|unix.IN_DELETE)
		if err != nil {
			t.Fatal(err)
		}
		watched[int32(wd)] = folder
	}
	gone := 0
	err = Prune(t.Context(), PruneOptions{StateDir: state, Rules: []Rule{{All: true}}, Removed: func(Removed) { gone++ }})
	if err != nil || gone != 3*n { // with the records
		t.Fatalf("%d of %d are gone: %v", gone, 3*n, err)
	}
	if left, err := os.ReadDir(filepath.Join(state, "mirrors/latest")); err != nil || len(left) > 0 {
		t.Errorf("%d hints are left: %v", len(left), err)
	}
	counts := map[string]int{}
	for buf := make([]byte, 64<<10); ; {
		size, err := unix.Read(fd, buf)
		if err == unix.EAGAIN {
			return counts
		}
		if err != nil {
			t.Fatal(err)
		}
		for rest := buf[:size]; len(rest) > 0; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
			if rest = rest[unix.SizeofInotifyEvent+e.Len:]; e.Len == 0 && e.Mask&unix.IN_ACCESS != 0 {
				counts[watched[e.Wd]]++
			}
		}
	}
}

// TestRanks has the least recently and the least often used first.
func TestRanks(t *testing.T) {
	now := time.Now()
	item := func(id string, hours, times int) *Item {
		return &Item{ID: id, LastUsed: now.Add(-time.Duration(hours) * time.Hour), Times: times}
	}
	p := &pruner{now: now, inventory: &inventory{items: []*Item{
		item("old and rare", 9, 1), item("old and frequent", 9, 9), item("new and rare", 1, 1), item("new and frequent", 1, 9), item("between", 5, 5),
	}}}
	var ids []string
	for _, c := range p.candidates(Rule{All: true}) {
		ids = append(ids, fmt.Sprintf("%s %.0f", c.ID, c.rank*10))
	}
	if ids[0] != "old and rare 0" || ids[4] != "new and frequent 20" {
		t.Errorf("%q", ids)
	}
	for _, id := range ids[1:4] {
		if id[len(id)-2:] != "10" {
			t.Errorf("%q", ids)
		}
	}
}

// TestNeed has limits, and the reserve that wins over them.
func TestNeed(t *testing.T) {
	p := &pruner{disk: disk{size: 1000, free: 100}, total: 500, inodes: 50}
	for _, row := range []struct {
		rule Rule
		want bool
	}{
		{Rule{}, true},
		{Rule{MaxUsed: Size{Bytes: 500}}, false},
		{Rule{MaxUsed: Size{Bytes: 499}}, true},
		{Rule{MaxUsed: Size{Percent: 40}}, true},
		{Rule{MaxUsed: Size{Percent: 50}}, false},
		{Rule{MaxInodes: 50}, false},
		{Rule{MaxInodes: 49}, true},
		{Rule{MinFree: Size{Bytes: 100}}, false},
		{Rule{MinFree: Size{Bytes: 101}}, true},
		{Rule{MinFree: Size{Bytes: 101}, Reserved: Size{Bytes: 500}}, false},
		{Rule{MinFree: Size{Bytes: 101}, Reserved: Size{Bytes: 499}}, true},
		{Rule{MaxInodes: 1, MaxUsed: Size{Bytes: 1}, Reserved: Size{Percent: 50}}, false},
		{Rule{Reserved: Size{Bytes: 499}}, true},
		{Rule{MaxUsed: Size{Bytes: 900}, Reserved: Size{Bytes: 1}}, false},
	} {
		if got := p.goal(row.rule)() != ""; got != row.want {
			t.Errorf("%+v: %v", row.rule, got)
		}
	}
}

func TestFilters(t *testing.T) {
	i := &Item{ID: "sha256:abcdef012345", Type: KindLayer, Description: "layer web of ./stacker.yaml", Parent: "sha256:123456", Shared: true, LastUsed: time.Now().Add(-48 * time.Hour)}
	for text, want := range map[string]bool{
		"id=abcdef": true, "id==sha256:abcdef": true, "id=abc": false, "id~=^sha256:abc": true, "id!=abcdef": false,
		"parent=123456": true, "description~=web": true, "description=web": false, "type=layer": true, "type!=layer": false,
		"type==base": false, "shared": true, "private": false, "private=false": true, "mutable": false, "immutable": true, "inuse": false, "inuse!=true": true,
		"until=24h": true, "until=3d": false, "until=2001-01-01": false, "type=layer,shared": true, "type=layer,private": false,
	} {
		filters, err := ParseFilters([]string{text})
		if err != nil {
			t.Fatal(err)
		}
		if got := matches(filters, i, time.Now()); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, text := range []string{"", "colour=blue", "type=lawyer", "id", "shared=perhaps", "until=soon", "id~=[", "id!x", "until=-1h"} {
		if _, err := ParseFilters([]string{text}); err == nil {
			t.Errorf("%q is taken for a filter", text)
		}
	}
}

func BenchmarkDiskUsage(b *testing.B) {
	state := manySnapshots(b, *many)
	for b.Loop() {
		if _, err := DiskUsage(b.Context(), state, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPruneDecides lists all and decides what to remove.
func BenchmarkPruneDecides(b *testing.B) {
	state := manySnapshots(b, *many)
	for b.Loop() {
		err := Prune(b.Context(), PruneOptions{StateDir: state, DryRun: true, Rules: []Rule{{All: true, MaxUsed: Size{Bytes: 1 << 20}}}})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNothingDue is what a build pays when there is nothing to collect.
func BenchmarkNothingDue(b *testing.B) {
	state := b.TempDir()
	if err := os.MkdirAll(filepath.Dir(markOf(state)), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(markOf(state), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		Due(state, DefaultPolicy(), time.Now())
	}
}
