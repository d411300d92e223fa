package imports

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vbatts/go-mtree"
	"github.com/vbatts/go-mtree/pkg/govis"
	"pgregory.net/rapid"
)

// FuzzParseManifest: whatever is parsed is written and parsed again the same.
func FuzzParseManifest(f *testing.F) {
	f.Add(manifestHead + ". mode=0755 type=dir\na mode=0644 sha256digest=" + strings.Repeat("0", 64) + " size=0 type=file\n..\n")
	f.Add(manifestHead + ". mode=0755 type=dir\nl\\040 link=a\\\\ mode=0777 type=link\nd mode=01777 type=dir xattr.user.a\\075=aGk=\n..\nn device=linux,1,3 mode=0666 type=char\n..\n")
	f.Add(manifestHead + ". mode=0 type=file\n")
	f.Add(manifestHead + ". type=dir \\\nmode=01\n..\n")
	f.Add(manifestHead + "..\n")
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

// FuzzVis: names are encoded as go-mtree does, and decoded again.
func FuzzVis(f *testing.F) {
	f.Add("a b\\n\n\x00\xff*?[#=")
	f.Fuzz(func(t *testing.T, s string) {
		got := string(appendVis(nil, s, false))
		if want, err := govis.Vis(s, mtree.DefaultVisFlags); err != nil || got != want {
			t.Errorf("%q: %q, go-mtree writes %q (%v)", s, got, want, err)
		}
		for _, key := range []bool{false, true} {
			v := string(appendVis(nil, s, key))
			if back, err := unvis([]byte(v)); err != nil || back != s {
				t.Errorf("%q: decoded to %q, %v", s, back, err)
			}
			if back, err := govis.Unvis(v, mtree.DefaultVisFlags); err != nil || back != s {
				t.Errorf("%q: go-mtree decodes %q, %v", s, back, err)
			}
			if strings.ContainsAny(v, " \t\n") || key && strings.Contains(v, "=") {
				t.Errorf("%q: %q ends a word", s, v)
			}
		}
	})
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
		var specs [2]*mtree.DirectoryHierarchy
		for i := range 2 {
			entries[i] = drawTree(t, ".", 0)
			var b bytes.Buffer
			if err := writeManifest(&b, build(entries[i])); err != nil {
				t.Fatal(err)
			}
			var err error
			if specs[i], err = mtree.ParseSpec(bytes.NewReader(b.Bytes())); err != nil {
				t.Fatal(err)
			}
			if parsed, err := parseManifest(&b, 0); err != nil || !reflect.DeepEqual(parsed, entries[i]) {
				t.Fatalf("%v: %v", parsed, err)
			}
		}
		deltas, err := mtree.Compare(specs[0], specs[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, d := range deltas {
			want[d.Path()] = string(d.Type())
		}
		got := map[string]string{}
		for _, c := range Compare(entries[0], entries[1]) {
			switch {
			case c.Old == nil:
				got[c.Path] = "extra"
			case c.New == nil:
				got[c.Path] = "missing"
			default:
				got[c.Path] = "modified"
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%v, go-mtree says %v", got, want)
		}
	})
}
