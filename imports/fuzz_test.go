package imports

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	gomtree "github.com/vbatts/go-mtree"
	"pgregory.net/rapid"

	"github.com/layerbuild/layerbuild/mtree"
)

// FuzzParseManifest: whatever is parsed is written and parsed again the same.
func FuzzParseManifest(f *testing.F) {
	f.Add(mtree.Head + ". mode=0755 type=dir\na mode=0644 sha256digest=" + strings.Repeat("0", 64) + " size=0 type=file\n..\n")
	f.Add(mtree.Head + ". mode=0755 type=dir\nl\\040 link=a\\\\ mode=0777 type=link\nd mode=01777 type=dir xattr.user.a\\075=aGk=\n..\nn device=linux,1,3 mode=0666 type=char\n..\n")
	f.Add(mtree.Head + ". mode=0 type=file\n")
	f.Add(mtree.Head + ". type=dir \\\nmode=01\n..\n")
	f.Add(mtree.Head + "..\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := parseManifest(strings.NewReader(text), 0)
		if err != nil {
			return
		}
		var b bytes.Buffer
		ok(t, writeManifest(&b, build(entries)))
		again, err := parseManifest(&b, 0)
		if err != nil || !reflect.DeepEqual(entries, again) {
			t.Errorf("%v\n%+v\n%+v", err, entries, again)
		}
	})
}

// build makes the manifest of entries.
func build(entries []Entry) *folder {
	f := &folder{}
	depth := -1 // folders that are open above the last entry
	for i := range entries {
		e := &entries[i]
		level := 0
		if e.Path != "." {
			level = 1 + strings.Count(e.Path, "/")
		}
		for ; depth >= level; depth-- {
			f.text = append(f.text, "..\n"...)
		}
		f.text = appendEntry(f.text, e, e.Path[strings.LastIndexByte(e.Path, '/')+1:])
		if e.Type == Dir {
			depth = level
		}
	}
	for ; depth >= 0; depth-- {
		f.text = append(f.text, "..\n"...)
	}
	return f
}

func FuzzDecodeShard(f *testing.F) {
	f.Add(encodeShard(nil))
	f.Add(encodeShard([]record{{1}, {2}}))
	f.Add([]byte(shardHead))
	f.Fuzz(func(t *testing.T, b []byte) {
		recs := decodeShard(b)
		if len(recs)%recordSize != 0 {
			t.Error(len(recs))
		}
		x := newStatIndex("")
		for i := range x.shards {
			x.shards[i].Store(&recs)
		}
		x.find(&stamp{ino: 1})
		mergeShard(recs, []record{{3}})
	})
}

// drawTree draws a small tree with awkward names.
func drawTree(t *rapid.T, p string, depth int) []Entry {
	e := Entry{Path: p, Type: Dir, Mode: uint32(rapid.SampledFrom([]int{0o755, 0o700}).Draw(t, "mode"))}
	if rapid.Bool().Draw(t, "owned") {
		e.Owner = &Owner{UID: uint32(rapid.IntRange(0, 1).Draw(t, "uid"))}
	}
	if depth > 0 && rapid.Bool().Draw(t, "file") {
		e.Type, e.Size = File, int64(rapid.IntRange(0, 2).Draw(t, "size"))
		e.Sum[0] = byte(e.Size)
		return []Entry{e}
	}
	all := []Entry{e}
	if depth == 3 {
		return all
	}
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "a-", "a b", "a.", "b", "\xff", "=", "#", "..a", "\\"}), 0, 4, rapid.ID).Draw(t, "names")
	slices.Sort(names)
	for _, name := range names {
		all = append(all, drawTree(t, join(p, name), depth+1)...)
	}
	return all
}

// TestCompareIsMtrees compares random trees here and with go-mtree.
func TestCompareIsMtrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var entries [2][]Entry
		var specs [2]*gomtree.DirectoryHierarchy
		for i := range 2 {
			entries[i] = drawTree(t, ".", 0)
			var b bytes.Buffer
			if err := writeManifest(&b, build(entries[i])); err != nil {
				t.Fatal(err)
			}
			var err error
			if specs[i], err = gomtree.ParseSpec(bytes.NewReader(b.Bytes())); err != nil {
				t.Fatal(err)
			}
			if parsed, err := parseManifest(&b, 0); err != nil || !reflect.DeepEqual(parsed, entries[i]) {
				t.Fatalf("%v: %v", parsed, err)
			}
		}
		want, err := gomtree.Compare(specs[0], specs[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Compare(entries[0], entries[1])
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(deltaTexts(got), deltaTexts(want)) {
			t.Fatalf("%v, go-mtree says %v", got, want)
		}
		for i, spec := range specs {
			if parsed, err := specEntries(spec); err != nil || !reflect.DeepEqual(parsed, entries[i]) {
				t.Fatalf("go-mtree reads %+v, not %+v: %v", parsed, entries[i], err)
			}
		}
	})
}

// deltaTexts spells differences out, sorted: go-mtree has them in no order.
func deltaTexts(deltas []gomtree.InodeDelta) (texts []string) {
	for _, d := range deltas {
		keys := d.Diff()
		slices.SortFunc(keys, func(a, b gomtree.KeyDelta) int { return strings.Compare(string(a.Name()), string(b.Name())) })
		text, _ := json.Marshal(d)
		texts = append(texts, string(text))
	}
	slices.Sort(texts)
	return texts
}
