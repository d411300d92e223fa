package imports

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// records counts what the stat index of a store has on disk.
func records(t *testing.T, s *Store) (n int) {
	t.Helper()
	for i := range shardCount {
		n += len(readShard(newStatIndex(filepath.Join(s.state, "statindex")).path(i))) / recordSize
	}
	return n
}

// lie changes the recorded digest of all files, so that a test can tell what
// comes from the index. It forgets the memos.
func lie(t *testing.T, s *Store) {
	t.Helper()
	forget(t, s)
	for i := range shardCount {
		recs := readShard(s.index.path(i))
		if len(recs) == 0 {
			continue
		}
		var all []record
		for ; len(recs) > 0; recs = recs[recordSize:] {
			r := record(recs[:recordSize])
			copy(r[atSum:], bytes.Repeat([]byte{0xee}, sha256.Size))
			all = append(all, r)
		}
		ok(t, os.WriteFile(s.index.path(i), encodeShard(all), 0o644))
	}
}

// forget removes the memos.
func forget(t *testing.T, s *Store) {
	t.Helper()
	for _, path := range must(filepath.Glob(s.memoPath("*")))(t) {
		ok(t, os.Remove(path))
	}
}

// believes reports whether another process would believe the index about dir.
func believes(t *testing.T, s *Store, dir string) bool {
	t.Helper()
	lie(t, s)
	other := must(Open(s.state, Options{}))(t)
	for _, e := range must(other.Entries(digestOf(t, other, Source{Path: dir}).Digest))(t) {
		if e.Type == File && e.Sum[0] == 0xee {
			return true
		}
	}
	return false
}

func TestStatIndexKnowsUnchangedFiles(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a": "1", "b/c": "2"})
	age(t)
	s := open(t, Options{})
	digestOf(t, s, Source{Path: dir})
	if n := records(t, s); n != 2 {
		t.Fatalf("%d records", n)
	}
	if !believes(t, s, dir) {
		t.Error("the index is not used")
	}
	ok(t, os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "renamed")))
	if !believes(t, s, dir) {
		t.Error("a renamed folder costs")
	}
	none := must(Open(s.state, Options{NoStatIndex: true}))(t)
	for _, e := range must(none.Entries(digestOf(t, none, Source{Path: dir}).Digest))(t) {
		if e.Type == File && e.Sum[0] == 0xee {
			t.Error("NoStatIndex believes the index")
		}
	}
}

// TestStatIndexSeesHiddenEdits: same size, same mtime.
func TestStatIndexSeesHiddenEdits(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": "old content"})
	f := filepath.Join(dir, "f")
	then := time.Unix(1700000000, 5)
	ok(t, os.Chtimes(f, then, then))
	age(t)
	s := open(t, Options{})
	edits := map[string]func(){
		"written, mtime put back": func() {
			ok(t, os.WriteFile(f, []byte("new content"), 0o644))
			ok(t, os.Chtimes(f, then, then))
		},
		"replaced by a renamed file": func() {
			ok(t, os.WriteFile(f+"2", []byte("oth content"), 0o644))
			ok(t, os.Chtimes(f+"2", then, then))
			ok(t, os.Rename(f+"2", f))
		},
		"written through a mapping": func() {
			file := must(os.OpenFile(f, os.O_RDWR, 0))(t)
			m := must(unix.Mmap(int(file.Fd()), 0, 11, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))(t)
			copy(m, "MAP")
			ok(t, unix.Munmap(m))
			ok(t, file.Close())
			ok(t, os.Chtimes(f, then, then))
		},
	}
	for name, edit := range edits {
		digestOf(t, s, Source{Path: dir})
		edit()
		tree := digestOf(t, s, Source{Path: dir})
		if want := digestOf(t, open(t, Options{NoStatIndex: true}), Source{Path: dir}); tree.Digest != want.Digest {
			t.Errorf("%s is not seen", name)
		}
		age(t)
	}
}

// TestStatIndexDistrustsYoungFiles: a file may change again within the time that
// the clock of its filesystem takes for one tick, and look the same.
func TestStatIndexDistrustsYoungFiles(t *testing.T) {
	now := time.Unix(1700000000, 123456789)
	old := now.Add(-time.Hour).UnixNano()
	for name, test := range map[string]struct {
		mtime, ctime int64
		racy         bool
	}{
		"old":                     {old, old, false},
		"changed now":             {now.UnixNano(), now.UnixNano(), true},
		"changed one tick ago":    {old, now.Add(-10 * time.Millisecond).UnixNano(), true},
		"changed a second ago":    {old, now.Add(-time.Second).UnixNano(), false},
		"mtime in the future":     {now.Add(time.Hour).UnixNano(), old, true},
		"ctime in the future":     {old, now.Add(time.Hour).UnixNano(), true},
		"a filesystem of seconds": {old, old - old%1e9, true},
		"mtime of a whole second": {old - old%1e9, old, false},
	} {
		if got := racy(&stamp{mtime: test.mtime, ctime: test.ctime}, now); got != test.racy {
			t.Errorf("%s: racy is %t", name, got)
		}
	}
	dir := write(t, t.TempDir(), map[string]string{"f": "1"})
	s := open(t, Options{})
	// However long the test takes, the file is young.
	later := time.Now().Add(time.Hour)
	ok(t, os.Chtimes(filepath.Join(dir, "f"), later, later))
	digestOf(t, s, Source{Path: dir})
	if n := records(t, s); n != 0 {
		t.Errorf("%d young files are recorded", n)
	}
	ok(t, os.Chtimes(filepath.Join(dir, "f"), now, now))
	age(t)
	digestOf(t, s, Source{Path: dir})
	if n := records(t, s); n != 1 {
		t.Errorf("%d records of a file that came of age", n)
	}
}

// TestStatIndexRace edits a file as fast as can be, as the racy rule is about.
func TestStatIndexRace(t *testing.T) {
	dir := t.TempDir()
	f := filepath.Join(dir, "f")
	ok(t, os.WriteFile(f, []byte("0000"), 0o644))
	s := open(t, Options{})
	file := must(os.OpenFile(f, os.O_RDWR, 0))(t)
	defer file.Close()
	for i := range 300 {
		content := fmt.Sprintf("%04d", i)
		must(file.WriteAt([]byte(content), 0))(t)
		got := must(s.FileDigest(context.Background(), Source{Path: f}))(t)
		if got.Encoded() != hashOf(content) {
			t.Fatalf("edit %d is not seen", i)
		}
	}
}

func TestStatIndexSurvivesDamage(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		write(t, dir, map[string]string{fmt.Sprint(i): fmt.Sprint(i)})
	}
	want := digestOf(t, open(t, Options{}), Source{Path: dir}).Digest
	age(t)
	for name, damage := range map[string]func(b []byte) []byte{
		"empty":     func(b []byte) []byte { return nil },
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"cut":       func(b []byte) []byte { return b[:len(b)-recordSize] },
		"flipped":   func(b []byte) []byte { b[len(shardHead)+atSum] ^= 1; return b },
		"garbage":   func(b []byte) []byte { return bytes.Repeat([]byte{7}, len(b)) },
		"version":   func(b []byte) []byte { b[6]++; return b },
	} {
		s := open(t, Options{})
		digestOf(t, s, Source{Path: dir})
		forget(t, s)
		for i := range shardCount {
			if b, err := os.ReadFile(s.index.path(i)); err == nil {
				ok(t, os.WriteFile(s.index.path(i), damage(b), 0o644))
			}
		}
		other := must(Open(s.state, Options{}))(t)
		if got := digestOf(t, other, Source{Path: dir}).Digest; got != want {
			t.Errorf("%s: another digest", name)
		}
		if n := records(t, other); n != 50 {
			t.Errorf("%s: %d records afterwards", name, n)
		}
	}
	s := open(t, Options{})
	ok(t, os.RemoveAll(filepath.Join(s.state, "statindex")))
	if got := digestOf(t, s, Source{Path: dir}).Digest; got != want {
		t.Error("an index that cannot be written: another digest")
	}
}

// TestStatIndexOfSeveral writes by several stores, as several processes do.
func TestStatIndexOfSeveral(t *testing.T) {
	state := t.TempDir()
	var dirs []string
	for i := range 6 {
		dir := t.TempDir()
		for j := range 40 {
			write(t, dir, map[string]string{fmt.Sprint(j): fmt.Sprint(i, j)})
		}
		dirs = append(dirs, dir)
	}
	age(t)
	var group sync.WaitGroup
	for _, dir := range dirs {
		group.Go(func() {
			s, err := Open(state, Options{})
			if err == nil {
				_, err = s.Digest(context.Background(), Source{Path: dir})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := records(t, must(Open(state, Options{}))(t)); n != 240 {
		t.Errorf("%d records of 240", n)
	}
}

func TestShardForgetsTheOldest(t *testing.T) {
	day := func(d int64) time.Time { return time.Unix(d*86400, 0) }
	sum := sha256.Sum256(nil)
	var recs []record
	for i := range shardLimit + 100 {
		recs = append(recs, newRecord(&stamp{ino: uint64(i * 3)}, &sum, false, day(int64(i%2)+10)))
	}
	merged := mergeShard(nil, recs)
	if len(merged) != shardLimit {
		t.Fatalf("%d records", len(merged))
	}
	gone := shardLimit + 100
	for i := range merged {
		if found(merged[i][:]).day() == 11 {
			gone--
		}
	}
	if gone != (shardLimit+100)/2 {
		t.Error("a young record was forgotten")
	}
	newer := newRecord(&stamp{ino: 3, size: 9}, &sum, true, day(12))
	again := mergeShard(encodeShard(merged)[len(shardHead):len(shardHead)+len(merged)*recordSize], []record{newer})
	x := newStatIndex(t.TempDir())
	b := decodeShard(encodeShard(again))
	for i := range x.shards {
		x.shards[i].Store(&b)
	}
	if r, ok := x.find(&stamp{ino: 3, size: 9}); !ok || !r.hasXattrs() || r.day() != 12 {
		t.Error("the newer record does not win")
	}
	if _, ok := x.find(&stamp{ino: 4}); ok {
		t.Error("found what is not there")
	}
}

// TestStatIndexOfViews: an overlay that is mounted for a moment has inodes of its
// own each time, which are not to fill the index.
func TestStatIndexOfViews(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := write(t, t.TempDir(), map[string]string{"lower/a/f": "1", "lower2/a/g": "2"})
	age(t)
	root := filepath.Join(dir, "root")
	ok(t, os.Mkdir(root, 0o755))
	if err := unix.Mount("overlay", root, "overlay", unix.MS_RDONLY, "lowerdir="+dir+"/lower:"+dir+"/lower2"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ok(t, unix.Unmount(root, unix.MNT_DETACH)) })
	s := open(t, Options{})
	if tree := digestOf(t, s, Source{Root: root, Path: "/a"}); tree.Files != 2 || records(t, s) != 0 {
		t.Errorf("%+v, %d records", tree, records(t, s))
	}
	if digestOf(t, s, Source{Path: root}); records(t, s) != 2 {
		t.Errorf("%d records of a folder on overlayfs", records(t, s))
	}
}
