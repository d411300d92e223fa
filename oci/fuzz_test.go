package oci

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Whatever a tar says, it is unpacked below the root or is an error, and stays within
// its bounds.
func FuzzExtract(f *testing.F) {
	for _, entries := range [][]*tar.Header{
		{{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d/f", Mode: 0o644}},
		{{Name: "../../outside/f"}},
		{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/f"}, {Name: "l/.wh.sentinel"}, {Name: "l/.wh..wh..opq"}},
		{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside/sentinel"}, {Name: "h"}},
		{{Name: "p", Typeflag: tar.TypeFifo}, {Name: "x", PAXRecords: map[string]string{paxXattrURL + "user.%61": "Yg", paxXattr + "user.e": "e"}}},
	} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, hdr := range entries {
			hdr.Format = tar.FormatPAX
			if err := w.WriteHeader(hdr); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(out.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		root, outside := filepath.Join(dir, "root"), filepath.Join(dir, "outside")
		for _, path := range []string{root, outside} {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(outside, "sentinel"), []byte("sound"), 0o644); err != nil {
			t.Fatal(err)
		}
		count := &tally{Bounds: Bounds{Bytes: 1 << 20, Files: 100}}
		err := new(Store).extract(t.Context(), bytes.NewReader(data), root, nil, count)
		if entries, _ := os.ReadDir(outside); len(entries) != 1 {
			t.Errorf("outside is %v", entries)
		}
		if text, _ := os.ReadFile(filepath.Join(outside, "sentinel")); string(text) != "sound" {
			t.Errorf("the file outside is %q", text)
		}
		if count.bytes > count.Bytes && err == nil {
			t.Errorf("%d bytes were unpacked", count.bytes)
		}
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error { return os.Chmod(path, 0o700) }) // to be removed
	})
}
