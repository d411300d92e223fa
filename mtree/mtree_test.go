package mtree

import (
	"strings"
	"testing"

	gomtree "github.com/vbatts/go-mtree"
	"github.com/vbatts/go-mtree/pkg/govis"
)

// FuzzName: names are encoded as go-mtree does, decoded again, and end no word.
func FuzzName(f *testing.F) {
	f.Add("a b\\n\n\x00\xff*?[#=")
	f.Fuzz(func(t *testing.T, s string) {
		name := string(AppendName(nil, s))
		if want, err := govis.Vis(s, gomtree.DefaultVisFlags); err != nil || name != want {
			t.Errorf("%q: %q, go-mtree writes %q (%v)", s, name, want, err)
		}
		key, _, ok := strings.Cut(string(AppendXattr(nil, s, "v")), "=")
		key = strings.TrimPrefix(key, "xattr.")
		if !ok {
			t.Errorf("%q: an attribute has no value", s)
		}
		for _, v := range []string{name, key} {
			if back, err := Name(v); err != nil || back != s {
				t.Errorf("%q: decoded to %q, %v", s, back, err)
			}
			if strings.ContainsAny(v, " \t\n") {
				t.Errorf("%q: %q ends a word", s, v)
			}
		}
	})
}

// TestFold: go-mtree reads no line of more than 64 KiB, and reads a folded one whole.
func TestFold(t *testing.T) {
	value := strings.Repeat("x", 200<<10)
	line := append(AppendXattr([]byte("f type=file "), "user.long", value), '\n')
	text := string(Fold([]byte(Head+". type=dir\n"), 0)) + string(Fold(line[:len(line)-1], 0)) + "\n..\n"
	spec, err := gomtree.ParseSpec(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range spec.Entries {
		if path, _ := e.Path(); path == "f" && len(gomtree.Has(e.Keywords, "xattr")) == 1 {
			return
		}
	}
	t.Error("the attribute is lost")
}
