package oci

import (
	"archive/tar"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestRootfsEntries: layers are applied as the OCI image specification has it, and no entry
// leads out of the root or without end.
func TestRootfsEntries(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	symlink := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for _, test := range []struct {
		what   string
		layers [][]tar.Header
		want   string
	}{
		{"a whiteout", [][]tar.Header{{file("a"), file("b")}, {file(".wh.a")}}, "b"},
		{"a whiteout of what this layer made", [][]tar.Header{{file("a")}, {file("a"), file(".wh.a")}}, "a"},
		{"a late opaque whiteout", [][]tar.Header{{dir("d"), file("d/old"), dir("d/s"), file("d/s/old")}, {file("d/new"), file("d/s/new"), file("d/.wh..wh..opq")}}, "d d/new d/s d/s/new"},
		{"a folder named again", [][]tar.Header{{dir("d"), file("d/a")}, {dir("d/")}}, "d d/a"},
		{"a folder in place of a file", [][]tar.Header{{file("d")}, {dir("d"), file("d/a")}}, "d d/a"},
		{"a file in place of a folder", [][]tar.Header{{dir("d"), file("d/a")}, {file("d")}}, "d"},
		{"through a symlink", [][]tar.Header{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/a")}}, "lib usr usr/lib usr/lib/a"},
		{"out of the root", [][]tar.Header{{symlink("up", "../../.."), file("up/a"), file("../b")}}, "a b up"},
		{"a hardlink", [][]tar.Header{{file("a"), {Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}}}, "a b"},
		{"a hardlink to nothing", [][]tar.Header{{{Name: "b", Typeflag: tar.TypeLink, Linkname: "d/a"}}}, `"b": link it to "d/a": there is no folder "d"`},
		{"a loop", [][]tar.Header{{symlink("x", "y"), symlink("y", "x"), file("x/a")}}, `"x/a": too many levels of symbolic links`},
	} {
		r := &rootfsReader{root: newFolderNode()}
		var err error
		for _, layer := range test.layers {
			r.layer++
			for _, hdr := range layer {
				if err == nil {
					err = r.entry(&hdr, strings.NewReader(""))
				}
			}
		}
		got := strings.Join(pathsOf(r.root, ""), " ")
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
}

func pathsOf(n *Node, at string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(n.Children)) {
		all = append(all, at+name)
		all = append(all, pathsOf(n.Children[name], at+name+"/")...)
	}
	return all
}
