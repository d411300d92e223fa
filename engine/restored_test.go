package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
)

// TestRestored makes differences with commands, packs them, and unpacks the blobs again:
// the snapshots are those that were made, file by file, whichever way they are unpacked.
func TestRestored(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, epoch := t.TempDir(), time.Unix(1_400_000_000, 0)
	made := newUnpacker(t, filepath.Join(dir, "made"))
	defer made.close()
	restored := map[string]*unpacker{}
	for _, way := range []string{"onto", "beside"} {
		restored[way] = newUnpacker(t, filepath.Join(dir, way))
		defer restored[way].close()
	}
	for i, script := range []string{
		`mkdir -p etc var/lib many old/deep; echo x >etc/x; echo y >etc/y; ln etc/x etc/z; echo db >var/lib/db
			cd many; seq 1001 | xargs touch; cd ../old/deep; touch 1 2 3; touch -d @1000 . ../../etc ../../var`,
		"rm -r etc; mkdir -m 700 etc; echo new >etc/new; echo y >etc/y; mv var v; mv v var; touch var/lib/new",
		"rm -r many; mkdir many; touch many/new; rm -r old; mkdir -p old/deep/er; ln -s x old/deep/1; truncate -s 1M sparse; echo x >>sparse",
		"rm -r etc/* old/deep/1; mkdir etc/sub; mknod etc/null c 1 3; setfattr -n user.x -v y etc; setcap cap_chown=ep sparse; mkfifo p",
		"rm -r var; mkdir -p var/lib; echo db >var/lib/db; rm p; mkdir p; touch p/1; rm many/new; rmdir many; echo x >many",
	} {
		m := must(made.snapshots.Prepare(t.Context(), made.top))
		defer m.Drop()
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = must(m.Mount(t.Context()))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		if err := m.Unmount(); err != nil {
			t.Fatal(err)
		}
		must(m.Normalize(t.Context(), epoch))
		layer := must(made.blobs.Pack(t.Context(), m.Upper(), oci.PackOptions{Compression: oci.None, Epoch: epoch, Root: true})).Layer
		want := made.commit(m, layer)
		if i == 2 && !strings.Contains(strings.Join(want, "\n"), "opaque") {
			t.Error("no folder is opaque")
		}
		for way, u := range restored {
			blob := must(os.ReadFile(filepath.Join(dir, "made/layout/blobs/sha256", layer.Digest.Encoded())))
			must(u.blobs.PutBytes(t.Context(), layer.MediaType, blob))
			unpack := u.onto
			if way == "beside" && i > 0 {
				unpack = u.beside
			}
			var got *overlay.Mutable
			got, err := unpack(layer)
			if err != nil {
				t.Fatal(err)
			}
			if have := u.commit(got, layer); !slices.Equal(have, want) {
				t.Errorf("layer %d, unpacked %s: it is\n%s\nnot\n%s", i, way, missing(have, want), missing(want, have))
			}
		}
	}
}

// missing are the lines that another list lacks.
func missing(lines, other []string) string {
	return fmt.Sprint(strings.Join(slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return slices.Contains(other, line) }), "\n"))
}
