package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/progress"
)

// What layers are made of in these tests: names as in a tar, with a text.
func dirEntry(name string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, Uid: 3, Gid: 4}
}

func fileEntry(name string) tar.Header { return tar.Header{Name: name, Mode: 0o640, Uid: 5, Gid: 6} }

func linkEntry(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}
}

func hardEntry(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}
}

func withXattr(hdr tar.Header, name, value string) tar.Header {
	hdr.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return hdr
}

// defaultACL is a system.posix_acl_default of user::rwx, group::r-x, mask::r-x,
// group 9 rwx, other::r-x (linux/posix_acl_xattr.h).
const defaultACL = "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
	"\x08\x00\x07\x00\x09\x00\x00\x00" + "\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"

// layerTar packs entries, each of another time and content.
func layerTar(t testing.TB, entries []tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i, hdr := range entries {
		hdr.Format = tar.FormatPAX
		hdr.ModTime = time.Unix(1_000_000_000+int64(i), 0)
		text := fmt.Sprint(hdr.Name, i)
		if hdr.Typeflag == 0 || hdr.Typeflag == tar.TypeReg {
			hdr.Size = int64(len(text))
		}
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if hdr.Size > 0 {
			must(w.Write([]byte(text)))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// An unpacker has the stores of a state folder that unpacking takes.
type unpacker struct {
	t         testing.TB
	snapshots *overlay.Store
	blobs     *oci.Store
	top       digest.Digest
}

func newUnpacker(t testing.TB, state string) *unpacker {
	return &unpacker{t: t, snapshots: must(overlay.Open(state)), blobs: must(oci.OpenStore(state))}
}

func (u *unpacker) close() {
	if err := errors.Join(u.snapshots.Close(), u.blobs.Close()); err != nil {
		u.t.Error(err)
	}
}

// onto unpacks a layer on a mount of those below.
func (u *unpacker) onto(layer oci.Layer) (*overlay.Mutable, error) {
	m := must(u.snapshots.Prepare(u.t.Context(), u.top))
	err := u.blobs.Unpack(u.t.Context(), layer, must(m.Mount(u.t.Context())), nil)
	return m, errors.Join(err, m.Unmount())
}

// beside unpacks a layer to a folder of its own.
func (u *unpacker) beside(layer oci.Layer) (*overlay.Mutable, error) {
	staged := must(u.snapshots.Stage(u.t.Context()))
	err := u.blobs.Stage(u.t.Context(), layer, staged.Root(), staged, nil)
	var m *overlay.Mutable
	if err == nil {
		m, err = staged.Join(u.t.Context(), u.top)
	}
	if err != nil {
		return nil, errors.Join(err, staged.Drop())
	}
	return m, nil
}

// commit makes a difference the highest snapshot, and tells what is in it.
func (u *unpacker) commit(m *overlay.Mutable, layer oci.Layer) []string {
	defer m.Drop()
	snap := must(m.Commit(u.t.Context(), layer.DiffID, overlay.Label{}))
	u.top = snap.ID
	// Bytes may differ by what attributes of overlayfs took that are gone.
	return append(picture(u.t, m.Upper()), fmt.Sprintf("%d inodes", snap.Inodes))
}

// equalPictures reports whether what layerbuild unpacked is what umoci did. Folders that
// umoci makes or changes by an entry of another one have the time of now, or that of a file
// in whose place they are.
func equalPictures(umoci, ours []string) bool {
	return slices.EqualFunc(umoci, ours, func(a, b string) bool {
		what, at, _ := strings.Cut(a, " at {")
		other, implied, _ := strings.Cut(b, " at {")
		return a == b || what == other && (at > "15" || implied == "0 0}")
	})
}

// picture tells all of the files in a folder that a layer says, or overlayfs.
func picture(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{} // by inode
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := must(filepath.Rel(dir, path))
		line := fmt.Sprintf("%q %o %d:%d dev %d", name, st.Mode, st.Uid, st.Gid, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFLNK:
			line += " -> " + must(os.Readlink(path))
		case unix.S_IFREG:
			line += fmt.Sprintf(" %q", must(os.ReadFile(path)))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			line += fmt.Sprintf(" one of %d with %q", st.Nlink, first[st.Ino])
		}
		buf := make([]byte, 64<<10)
		names := strings.Split(string(buf[:must(unix.Llistxattr(path, buf))]), "\x00")
		slices.Sort(names)
		for _, name := range names {
			if name != "" {
				line += fmt.Sprintf(" %s=%q", name, buf[:must(unix.Lgetxattr(path, name, buf))])
			}
		}
		line += fmt.Sprint(" at ", st.Mtim)
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// compareWays unpacks a stack of layers on mounts, by umoci and by layerbuild, and beside
// those below where that can be done, and compares the snapshots. It returns for each
// layer whether it could.
func compareWays(t testing.TB, dir string, stack ...[]tar.Header) (beside []bool) {
	t.Helper()
	one, other := newUnpacker(t, filepath.Join(dir, "umoci")), newUnpacker(t, filepath.Join(dir, "beside"))
	defer one.close()
	defer other.close()
	one.blobs.ByUmoci = true
	mounted := newUnpacker(t, filepath.Join(dir, "onto"))
	defer mounted.close()
	for i, entries := range stack {
		content := layerTar(t, entries)
		d := must(one.blobs.PutBytes(t.Context(), ispec.MediaTypeImageLayer, content))
		must(other.blobs.PutBytes(t.Context(), ispec.MediaTypeImageLayer, content))
		must(mounted.blobs.PutBytes(t.Context(), ispec.MediaTypeImageLayer, content))
		layer := oci.Layer{Descriptor: d, DiffID: d.Digest}
		want, err := one.onto(layer)
		defer want.Drop()
		same, failed := mounted.onto(layer)
		defer same.Drop()
		if (err == nil) != (failed == nil) {
			t.Fatalf("layer %d: by umoci %v, by layerbuild %v", i, err, failed)
		}
		var got *overlay.Mutable
		apart := oci.ErrApart
		if i > 0 {
			got, apart = other.beside(layer)
		}
		switch {
		case errors.Is(apart, oci.ErrApart), errors.Is(apart, overlay.ErrApart):
			if got, apart = other.onto(layer); (apart == nil) != (err == nil) {
				t.Fatal(err, apart)
			}
			defer got.Drop()
			beside = append(beside, false)
		case apart != nil:
			if fmt.Sprint(apart) != fmt.Sprint(err) {
				t.Fatalf("layer %d: %v; on a mount: %v", i, apart, err)
			}
			return append(beside, true)
		default:
			beside = append(beside, true)
		}
		if err != nil {
			if apart == nil {
				t.Fatalf("layer %d could be unpacked only beside those below: %v", i, err)
			}
			return beside
		}
		wanted, have := one.commit(want, layer), other.commit(got, layer)
		onto := mounted.commit(same, layer)
		if equalPictures(wanted, onto) {
			wanted = onto
		} else {
			have = onto
		}
		if !slices.Equal(wanted, have) {
			for _, entries := range stack[:i+1] {
				t.Log("a layer:")
				for _, hdr := range entries {
					t.Logf("  %c %q %q %o %q", hdr.Typeflag, hdr.Name, hdr.Linkname, hdr.Mode, hdr.PAXRecords)
				}
			}
			t.Fatalf("layer %d, beside %v:\n%s\nnot\n%s", i, beside[i], strings.Join(have, "\n"), strings.Join(wanted, "\n"))
		}
	}
	return beside
}

// below is what the layers of TestUnpackBeside stand on.
var below = []tar.Header{
	dirEntry("d", 0o750), fileEntry("d/f"), fileEntry("d/g"), dirEntry("d/sub", 0o700), fileEntry("d/sub/x"), fileEntry("d/sub/y"),
	dirEntry("empty", 0o711), fileEntry("f"), dirEntry("usr", 0o755), dirEntry("usr/lib", 0o755), fileEntry("usr/lib/so"), linkEntry("lib", "usr/lib"),
	dirEntry("group", 0o2775), withXattr(dirEntry("acl", 0o755), "system.posix_acl_default", defaultACL), withXattr(dirEntry("x", 0o755), "user.x", "x"),
	withXattr(dirEntry("own", 0o755), "trusted.overlay.opaque", "y"),
}

func TestUnpackBeside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for name, c := range map[string]struct {
		apart   bool // whether it is to be known that it cannot be unpacked beside those below
		entries []tar.Header
	}{
		"nothing":                             {false, nil},
		"new files":                           {false, []tar.Header{dirEntry("n", 0o700), fileEntry("n/f"), fileEntry("d/n"), fileEntry("n2")}},
		"a folder that is not named":          {false, []tar.Header{fileEntry("d/sub/n"), fileEntry("x/n")}},
		"a folder that is named":              {false, []tar.Header{dirEntry("d", 0o711), fileEntry("d/n"), dirEntry("d/sub", 0o755)}},
		"the root":                            {false, []tar.Header{dirEntry("./", 0o711), fileEntry("n")}},
		"folders that nobody names":           {false, []tar.Header{fileEntry("p/q/r"), fileEntry("d/q/r")}},
		"named after use":                     {false, []tar.Header{fileEntry("d/sub/n"), dirEntry("d", 0o711)}},
		"whiteouts":                           {false, []tar.Header{fileEntry(".wh.f"), fileEntry("d/.wh.sub"), fileEntry("d/.wh.none"), fileEntry(".wh.none"), fileEntry("none/.wh.f")}},
		"a whiteout of nothing":               {false, []tar.Header{fileEntry("d/sub/.wh.none")}},
		"an opaque folder":                    {false, []tar.Header{fileEntry("d/.wh..wh..opq"), fileEntry("d/n"), fileEntry("d/sub/n")}},
		"an opaque folder, last":              {false, []tar.Header{fileEntry("d/sub/x"), fileEntry("d/.wh..wh..opq")}},
		"an opaque folder that is named":      {false, []tar.Header{dirEntry("d", 0o711), fileEntry("d/.wh..wh..opq"), dirEntry("d/sub", 0o711)}},
		"an opaque root":                      {false, []tar.Header{fileEntry(".wh..wh..opq"), fileEntry("d/sub/x")}},
		"an opaque folder of no name":         {false, []tar.Header{fileEntry("d/.wh.")}},
		"removed and made again":              {false, []tar.Header{fileEntry(".wh.d"), fileEntry("d/n"), dirEntry("d/sub", 0o711), fileEntry("d/.wh.f"), fileEntry(".wh.f"), fileEntry("f")}},
		"removed and named again":             {false, []tar.Header{fileEntry(".wh.d"), dirEntry("d", 0o711), fileEntry(".wh.empty"), dirEntry("empty", 0o755)}},
		"made and removed":                    {false, []tar.Header{fileEntry("d/n"), dirEntry("d/sub", 0o711), fileEntry(".wh.d"), fileEntry("f"), fileEntry(".wh.f")}},
		"a whiteout below one that follows":   {false, []tar.Header{fileEntry("d/sub/.wh.x"), fileEntry("d/.wh.sub"), fileEntry("d/.wh.f")}},
		"a file for a folder":                 {false, []tar.Header{fileEntry("d")}},
		"a folder for a file":                 {false, []tar.Header{dirEntry("f", 0o755), fileEntry("f/n")}},
		"a folder for a symlink":              {false, []tar.Header{dirEntry("lib", 0o755), fileEntry("lib/so"), fileEntry("lib/.wh.n")}},
		"a folder for a symlink, removed":     {false, []tar.Header{fileEntry(".wh.lib"), fileEntry("lib/n")}},
		"a symlink for a folder":              {false, []tar.Header{linkEntry("d", "usr")}},
		"a folder for a file for a folder":    {false, []tar.Header{fileEntry("d/n"), fileEntry("d"), dirEntry("d", 0o755), fileEntry("d/f"), fileEntry("d/.wh.g")}},
		"duplicates":                          {false, []tar.Header{fileEntry("n"), fileEntry("n"), dirEntry("d", 0o700), dirEntry("d", 0o711), linkEntry("f", "x"), fileEntry("f")}},
		"hard links":                          {false, []tar.Header{fileEntry("d/n"), hardEntry("d/m", "d/n"), hardEntry("o", "/d/m"), hardEntry("f", "o")}},
		"a hard link to a symlink":            {false, []tar.Header{linkEntry("n", "f"), hardEntry("m", "n")}},
		"attributes":                          {false, []tar.Header{withXattr(fileEntry("d/n"), "user.a", "b"), withXattr(dirEntry("x", 0o755), "trusted.t", ""), withXattr(fileEntry("c"), "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}},
		"devices":                             {false, []tar.Header{{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}, {Name: "d/b", Typeflag: tar.TypeBlock, Devmajor: 8}, {Name: "p", Typeflag: tar.TypeFifo, Mode: 0o600}}},
		"names of any bytes":                  {false, []tar.Header{dirEntry("d/\xff", 0o755), fileEntry("d/\xff/\x01\n"), fileEntry(".wh..wh.f"), fileEntry("d/sub/.wh.\xfe"), fileEntry("/d//./n/../m")}},
		"in a folder of a group, by name":     {false, []tar.Header{dirEntry("group/n", 0o755), fileEntry("group/f"), fileEntry("acl/f")}},
		"through a symlink below":             {true, []tar.Header{fileEntry("lib/n")}},
		"a whiteout through a symlink below":  {true, []tar.Header{fileEntry("lib/.wh.so")}},
		"opaque through a symlink below":      {true, []tar.Header{fileEntry("lib/.wh..wh..opq")}},
		"through a symlink that is replaced":  {true, []tar.Header{fileEntry("lib/n"), dirEntry("lib", 0o755)}},
		"through one that is removed then":    {true, []tar.Header{fileEntry("lib/.wh.so"), fileEntry(".wh.lib")}},
		"through a symlink":                   {true, []tar.Header{linkEntry("l", "d/sub"), fileEntry("l/n")}},
		"a whiteout through a symlink":        {true, []tar.Header{linkEntry("l", "d/sub"), fileEntry("l/.wh.x")}},
		"through a file below":                {true, []tar.Header{fileEntry("f/n")}},
		"through a file":                      {true, []tar.Header{fileEntry("n"), fileEntry("n/n")}},
		"a whiteout in a file":                {true, []tar.Header{fileEntry("f/.wh.n")}},
		"a hard link to what is below":        {true, []tar.Header{hardEntry("n", "d/f")}},
		"a hard link before its target":       {true, []tar.Header{hardEntry("n", "d/f"), fileEntry("d/f")}},
		"a hard link to what was replaced":    {true, []tar.Header{fileEntry("d/n"), dirEntry("d/n", 0o755), hardEntry("n", "d/n")}},
		"a hard link to itself":               {true, []tar.Header{fileEntry("n"), hardEntry("n", "n")}},
		"a hard link through a symlink below": {true, []tar.Header{hardEntry("n", "lib/so")}},
		"overlayfs's whiteout":                {true, []tar.Header{{Name: "f", Typeflag: tar.TypeChar}}},
		"overlayfs's attribute":               {true, []tar.Header{withXattr(dirEntry("d", 0o755), "trusted.overlay.opaque", "y")}},
		"overlayfs's attribute below":         {true, []tar.Header{fileEntry("own/n")}},
		"no name in a folder of a group":      {true, []tar.Header{fileEntry("group/n/f")}},
		"no name in a folder with an ACL":     {true, []tar.Header{fileEntry("acl/n/f")}},
		"named later in a folder of a group":  {true, []tar.Header{fileEntry("group/n/m/f"), dirEntry("group/n", 0o755)}},
		"a whiteout in a folder of an ACL":    {true, []tar.Header{withXattr(dirEntry("d", 0o755), "system.posix_acl_default", defaultACL), fileEntry("d/sub/.wh.x")}},
		"no name in a folder of a new group":  {true, []tar.Header{dirEntry("d", 0o2755), fileEntry("d/sub/n/f"), dirEntry("d/sub", 0o755)}},
		"a root that is no folder":            {true, []tar.Header{linkEntry("./", "/")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := compareWays(t, t.TempDir(), below, c.entries)[1]; got == c.apart {
				t.Errorf("unpacked beside those below: %v", got)
			}
		})
	}
}

// reported counts events that begin with a text.
func reported(said *held, kind progress.Kind, text string) (n int) {
	for _, e := range said.events {
		if e.Kind == kind && strings.HasPrefix(e.Text, text) {
			n++
		}
	}
	return n
}

// newEnsurer opens a state folder with a base of some layers, to be unpacked.
func newEnsurer(t *testing.T, stack ...[]tar.Header) (*Builder, *chain, *held) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	state, said := t.TempDir(), &held{}
	b := must(open(t.Context(), Options{StateDir: state, OCIDir: filepath.Join(state, "oci"), Sink: said}, &layers.Graph{}))
	t.Cleanup(b.close)
	b.mayMount, b.ready, b.Snapshots.Space = true, func() error { return nil }, nil
	var base *chain
	for _, entries := range stack {
		d := must(b.Blobs.PutBytes(t.Context(), ispec.MediaTypeImageLayer, layerTar(t, entries)))
		base = base.with(oci.Layer{Descriptor: d, DiffID: d.Digest})
	}
	return b, base, said
}

// TestEnsure unpacks a base for several layers at once: each of its layers once, but for
// one that is not to be understood beside those below.
func TestEnsure(t *testing.T) {
	b, base, said := newEnsurer(t, below, []tar.Header{fileEntry("d/n")}, []tar.Header{fileEntry("lib/n")}, []tar.Header{fileEntry("d/.wh.n")}, nil)
	var all errgroup.Group
	for i := range 4 {
		all.Go(func() error {
			return b.ensure(t.Context(), &layers.Layer{Name: fmt.Sprint(i), File: &layers.Stackerfile{}}, base)
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	again := reported(said, progress.Debug, "unpacking")
	if n := reported(said, progress.Started, "unpacking"); n != base.layers()+again || again > 1 {
		t.Errorf("%d layers were unpacked, and %d once more, in %d goes", base.layers(), again, n)
	}
	view := must(b.Snapshots.View(t.Context(), base.id))
	defer view.Release()
	for path, want := range map[string]bool{"d/n": false, "d/f": true, "usr/lib/n": true} {
		if _, err := os.Lstat(filepath.Join(view.Root, path)); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestEnsureFails makes layers that lie: it is the lowest of them that is told of, and
// nothing is left of those above.
func TestEnsureFails(t *testing.T) {
	b, base, _ := newEnsurer(t, below, []tar.Header{fileEntry("a")}, []tar.Header{fileEntry("b")}, []tar.Header{fileEntry("c")})
	for i, link := range base.all() {
		if i%2 == 1 {
			link.diff = digest.FromString(fmt.Sprint(i))
		}
	}
	err := b.ensure(t.Context(), &layers.Layer{Name: "app", File: &layers.Stackerfile{}}, base)
	if lie := base.all()[1].diff; err == nil || !strings.Contains(err.Error(), lie.String()) {
		t.Errorf("%v, not about %s", err, lie)
	}
	for i, link := range base.all() {
		if there := b.Snapshots.Has(link.id); there != (i == 0) {
			t.Errorf("layer %d is there: %v", i, there)
		}
	}
	b.close()
	if left := must(os.ReadDir(filepath.Join(b.StateDir, "tmp"))); len(left) > 0 {
		t.Errorf("left in tmp/: %v", left)
	}
}

// dice decide by the bytes of a fuzzer; at their end by nothing but zeros.
type dice []byte

func (d *dice) roll(n int) int {
	if len(*d) == 0 {
		return 0
	}
	first := (*d)[0]
	*d = (*d)[1:]
	return int(first) % n
}

// path leads through folders more often than through files.
func (d *dice) path() string {
	folders := []string{"a", "b", "lib", "usr"}
	names := slices.Concat(folders, []string{"f", "g", "h", "\xff"})
	name := ""
	for range d.roll(3) {
		name = path.Join(name, folders[d.roll(len(folders))])
	}
	return path.Join(name, names[d.roll(len(names))])
}

// stack is some layers of some entries.
func (d *dice) stack() (stack [][]tar.Header) {
	for i := range 2 + d.roll(3) {
		var entries []tar.Header
		for range 3 + d.roll(10) {
			entries = append(entries, d.entry(i > 0, entries))
		}
		stack = append(stack, entries)
	}
	return stack
}

func (d *dice) entry(whiteouts bool, before []tar.Header) tar.Header {
	name := d.path()
	modes := []int64{0o755, 0o700, 0o1777, 0o2775}
	kinds := 28
	if whiteouts {
		kinds = 48
	}
	switch kind := d.roll(kinds); {
	case kind < 9:
		return dirEntry(name, modes[d.roll(3)])
	case kind < 19:
		return fileEntry(name)
	case kind < 20:
		return linkEntry(name, []string{"usr/lib", "a", "../b", "/usr", "b"}[d.roll(5)])
	case kind < 21:
		return hardEntry(name, d.path())
	case kind < 23:
		if len(before) == 0 {
			return fileEntry(name)
		}
		return hardEntry(name, before[d.roll(len(before))].Name)
	case kind < 24:
		return tar.Header{Name: name, Typeflag: tar.TypeFifo, Mode: 0o600}
	case kind < 25:
		return tar.Header{Name: name, Typeflag: tar.TypeChar, Devmajor: int64(d.roll(2)), Devminor: int64(d.roll(4)), Mode: 0o666}
	case kind < 26:
		attributes := []string{"user.a", "trusted.b", "user.overlay.opaque", "trusted.overlay.opaque", "user.c"}
		return withXattr(dirEntry(name, 0o755), attributes[d.roll(len(attributes))], "y")
	case kind < 27:
		hdr := dirEntry(name, modes[d.roll(4)])
		if d.roll(4) == 0 {
			hdr = withXattr(hdr, "system.posix_acl_default", defaultACL)
		}
		return hdr
	case kind < 28:
		return dirEntry("./", modes[d.roll(4)])
	case kind < 40:
		return fileEntry(path.Join(path.Dir(name), ".wh."+path.Base(name)))
	default:
		return fileEntry(path.Join(name, ".wh..wh..opq"))
	}
}

// inTmpfs is a folder in memory, which is what makes a thousand stacks quick.
func inTmpfs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestUnpackBesideRandomly unpacks random layers, which must seldom have to be unpacked
// on a mount.
func TestUnpackBesideRandomly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := inTmpfs(t)
	layers, beside := 0, 0
	for seed := range *propertySeeds * 50 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		d := make(dice, 400)
		for i := range d {
			d[i] = byte(r.Uint32())
		}
		at := filepath.Join(dir, fmt.Sprint(seed))
		for _, was := range compareWays(t, at, d.stack()...)[1:] {
			layers++
			if was {
				beside++
			}
		}
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("of %d layers %d were unpacked beside those below", layers, beside)
	if beside < layers/3 {
		t.Errorf("of %d layers %d were unpacked beside those below", layers, beside)
	}
}

func FuzzUnpackBeside(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root")
	}
	f.Add([]byte("layer"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := dice(data[:min(len(data), 400)])
		compareWays(t, inTmpfs(t), d.stack()...)
	})
}
