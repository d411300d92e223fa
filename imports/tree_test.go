package imports

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	gomtree "github.com/vbatts/go-mtree"
	"golang.org/x/sys/unix"
)

// open opens a store in a state folder of its own.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// must ends the test at an error.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes files, with their folders, below dir: path to content.
func write(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	for p, content := range files {
		p = filepath.Join(dir, p)
		ok(t, os.MkdirAll(filepath.Dir(p), 0o755))
		ok(t, os.WriteFile(p, []byte(content), 0o644))
	}
	return dir
}

// age sets back the clock of the stat index: what is written now is no longer
// young to it. ctime cannot be set, so the tests wait for it to pass.
func age(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(grain + 20*time.Millisecond); time.Now().Before(end); {
		time.Sleep(time.Until(end))
	}
}

func digestOf(t testing.TB, s *Store, src Source) Tree {
	t.Helper()
	return must(s.Digest(context.Background(), src))(t)
}

// manifest returns the text of a tree's manifest.
func manifest(t testing.TB, s *Store, tree Tree) string {
	t.Helper()
	f := must(os.Open(s.manifestPath(tree.Digest)))(t)
	defer f.Close()
	z := must(zstd.NewReader(f))(t)
	defer z.Close()
	return string(must(io.ReadAll(z))(t))
}

func TestManifestIsMtree(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a": "hello\n", "sub/b c": "", "sub/deeper/x=y#z\\": "x"})
	ok(t, os.Symlink(`a\`, filepath.Join(dir, "link")))
	s := open(t, Options{})
	tree := digestOf(t, s, Source{Path: dir})
	want := `#mtree v2.0
. mode=0755 type=dir
a mode=0644 sha256digest=5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03 size=6 type=file
link link=a\\ mode=0777 type=link
sub mode=0755 type=dir
b\040c mode=0644 sha256digest=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 size=0 type=file
deeper mode=0755 type=dir
x=y\043z\\ mode=0644 sha256digest=2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 size=1 type=file
..
..
..
`
	if got := manifest(t, s, tree); got != want {
		t.Errorf("manifest:\n%s\nwant:\n%s", got, want)
	}
	sum := sha256.Sum256([]byte(want))
	if tree.Digest.Encoded() != hex.EncodeToString(sum[:]) || tree.Files != 3 || tree.Size != 7 || !tree.Dir {
		t.Errorf("tree: %+v", tree)
	}
	if d, err := gomtree.ParseSpec(strings.NewReader(want)); err != nil || len(d.Entries) != 11 {
		t.Errorf("go-mtree reads %d entries: %v", len(d.Entries), err)
	}
}

// special makes a folder with one of everything that a filesystem can hold.
func special(t testing.TB) string {
	t.Helper()
	dir := write(t, t.TempDir(), map[string]string{
		"plain": "content", "empty": "", "new\nline": "1", "tab\tspace ": "2", "back\\slash\\": "3",
		"glob*?[": "4", "\xff\xfe\x01": "5", "#mtree": "6", "..x": "7", "a=b": "8", "ü": "9",
		"dir/in": "10", "dir-x/in": "11", "new\ndir type=file\n/in": "12",
	})
	ok(t, os.Mkdir(filepath.Join(dir, "nothing"), 0o700))
	ok(t, os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "hard")))
	for name, target := range map[string]string{"to nothing": "gone", "loop": "loop", "out": "/etc", "odd": "a b\n\\"} {
		ok(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	ok(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640))
	ok(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	ok(t, unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))))
	ok(t, os.WriteFile(filepath.Join(dir, "suid"), []byte("s"), 0o600))
	ok(t, unix.Chmod(filepath.Join(dir, "suid"), 0o6755))
	ok(t, unix.Chmod(filepath.Join(dir, "nothing"), 0o1777))
	big := strings.Repeat("v", 3000)
	ok(t, unix.Setxattr(filepath.Join(dir, "plain"), "user.odd=name", []byte("\x00\xff"), 0))
	ok(t, unix.Setxattr(filepath.Join(dir, "plain"), "user.big", []byte(big), 0))
	ok(t, unix.Setxattr(filepath.Join(dir, "empty"), "user.nothing", nil, 0))
	for _, folder := range []string{"dir", "nothing"} {
		ok(t, unix.Setxattr(filepath.Join(dir, folder), "user.folder", []byte("f"), 0))
	}
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	ok(t, unix.Setxattr(filepath.Join(dir, "suid"), "security.capability", caps, 0))
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 7, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}
	ok(t, unix.Setxattr(filepath.Join(dir, "a=b"), "system.posix_acl_access", acl, 0))
	sparse := must(os.Create(filepath.Join(dir, "sparse")))(t)
	ok(t, sparse.Truncate(8<<20))
	must(sparse.WriteAt([]byte("middle"), 5<<20))(t)
	ok(t, sparse.Close())
	return dir
}

// TestEntriesOfEverything shows that nothing of a folder is lost or mixed up on
// the way through a manifest, and that go-mtree reads the same in it.
func TestEntriesOfEverything(t *testing.T) {
	dir := special(t)
	s := open(t, Options{})
	tree := digestOf(t, s, Source{Path: dir})
	entries := must(s.Entries(tree.Digest))(t)
	if !slices.IsSortedFunc(entries, func(a, b Entry) int { return comparePaths(a.Path, b.Path) }) {
		t.Error("entries are not sorted")
	}
	seen := map[string]Entry{}
	for _, e := range entries {
		seen[e.Path] = e
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		ok(t, err)
		rel := must(filepath.Rel(dir, p))(t)
		e, has := seen[rel]
		if !has {
			t.Errorf("%q is missing", rel)
			return nil
		}
		delete(seen, rel)
		checkEntry(t, p, e)
		return nil
	})
	ok(t, err)
	for p := range seen {
		t.Errorf("%q is too much", p)
	}
	checkMtree(t, manifest(t, s, tree), entries)
}

// checkEntry compares an entry with the file at p, by the standard library.
func checkEntry(t *testing.T, p string, e Entry) {
	t.Helper()
	var st unix.Stat_t
	ok(t, unix.Lstat(p, &st))
	if e.Mode != st.Mode&0o7777 {
		t.Errorf("%q: mode %o, want %o", p, e.Mode, st.Mode&0o7777)
	}
	switch e.Type {
	case File:
		b := must(os.ReadFile(p))(t)
		if e.Size != int64(len(b)) || e.Sum != sha256.Sum256(b) {
			t.Errorf("%q: content differs", p)
		}
	case Symlink:
		if l := must(os.Readlink(p))(t); l != e.Link {
			t.Errorf("%q: link %q, want %q", p, e.Link, l)
		}
	case Char, Block:
		if e.Major != unix.Major(st.Rdev) || e.Minor != unix.Minor(st.Rdev) {
			t.Errorf("%q: device %d,%d", p, e.Major, e.Minor)
		}
	}
	want := map[string]int{"plain": 2, "hard": 2, "empty": 1, "dir": 1, "nothing": 1, "suid": 1, "a=b": 1}[filepath.Base(p)]
	if len(e.Xattrs) != want {
		t.Errorf("%q: %d extended attributes, want %d", p, len(e.Xattrs), want)
	}
	for _, x := range e.Xattrs {
		b := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, x.Name, b)
		if err != nil || string(b[:n]) != x.Value {
			t.Errorf("%q: %s is %q, want %q (%v)", p, x.Name, x.Value, b[:n], err)
		}
	}
}

// checkMtree lets go-mtree read a manifest and compares paths and keywords.
func checkMtree(t *testing.T, text string, entries []Entry) {
	t.Helper()
	spec := must(gomtree.ParseSpec(strings.NewReader(text)))(t)
	i := 0
	for _, m := range spec.Entries {
		if m.Type != gomtree.RelativeType && m.Type != gomtree.FullType {
			continue
		}
		p := must(m.Path())(t)
		if i >= len(entries) || p != entries[i].Path {
			t.Fatalf("entry %d: go-mtree reads %q", i, p)
		}
		e := entries[i]
		keys := map[string]string{}
		for _, kv := range m.AllKeys() {
			keys[string(kv.Keyword())] = kv.Value()
		}
		if keys["type"] != e.Type.String() || e.Type == File && keys["sha256digest"] != hex.EncodeToString(e.Sum[:]) {
			t.Errorf("%q: go-mtree reads %v", p, keys)
		}
		i++
	}
	if i != len(entries) {
		t.Errorf("go-mtree reads %d entries of %d", i, len(entries))
	}
}

// TestLongXattrsAreSeen: go-mtree drops all attributes of a file that has one
// of more than 1 KiB, and reads no line of more than 64 KiB.
func TestLongXattrsAreSeen(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": "x"})
	s := open(t, Options{})
	for _, size := range []int{1, 1025, 60000} {
		value := strings.Repeat("\\", size)
		p := filepath.Join(dir, "f")
		if size > 4000 {
			dir = inMemory(t)
			p = filepath.Join(dir, "f")
			ok(t, os.WriteFile(p, nil, 0o644))
		}
		if err := unix.Setxattr(p, "user.long", []byte(value), 0); err != nil && size > 4000 {
			t.Skip("no filesystem with long extended attributes:", err)
		}
		tree := digestOf(t, s, Source{Path: dir})
		entries := must(s.Entries(tree.Digest))(t)
		if x := entries[1].Xattrs; len(x) != 1 || x[0].Value != value {
			t.Errorf("%d bytes: %d attributes", size, len(x))
		}
		checkMtree(t, manifest(t, s, tree), entries)
	}
}

func TestTreeIsContentAlone(t *testing.T) {
	s := open(t, Options{})
	a := special(t)
	b := filepath.Join(t.TempDir(), "elsewhere")
	if out, err := exec.Command("cp", "-a", a, b).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ok(t, os.Chtimes(filepath.Join(b, "plain"), time.Now(), time.Unix(1, 0)))
	ok(t, os.Lchown(filepath.Join(b, "empty"), 1234, 1234))
	ta, tb := digestOf(t, s, Source{Path: a}), digestOf(t, s, Source{Path: b})
	if ta.Digest != tb.Digest {
		t.Error("owner, time or place counted")
	}
	other := open(t, Options{NoStatIndex: true})
	if tc := digestOf(t, other, Source{Path: a}); tc.Digest != ta.Digest {
		t.Error("the stat index made a difference")
	}
	if d := digestOf(t, s, Source{Path: a}); d.Digest != ta.Digest {
		t.Error("digested again it differs")
	}
}

func TestSingleFile(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a": "same", "b": "same", "c": "other"})
	ok(t, os.Symlink("a", filepath.Join(dir, "l")))
	s := open(t, Options{})
	a := digestOf(t, s, Source{Path: filepath.Join(dir, "a")})
	for name, same := range map[string]bool{"b": true, "c": false, "l": true} {
		if got := digestOf(t, s, Source{Path: filepath.Join(dir, name)}); (got.Digest == a.Digest) != same || got.Dir || got.Files != 1 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	sum := sha256.Sum256([]byte("same"))
	if d := must(s.FileDigest(context.Background(), Source{Path: filepath.Join(dir, "l")}))(t); d.Encoded() != hex.EncodeToString(sum[:]) {
		t.Error(d)
	}
	if _, err := s.FileDigest(context.Background(), Source{Path: dir}); err == nil {
		t.Error("a folder has a sha256")
	}
}

// TestSourceThroughSymlinks: go-mtree panics at a root that is a symlink.
func TestSourceThroughSymlinks(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"real/sub/f": "x"})
	ok(t, os.Symlink("real", filepath.Join(dir, "parent")))
	ok(t, os.Symlink("parent/sub", filepath.Join(dir, "root")))
	s := open(t, Options{})
	want := digestOf(t, s, Source{Path: filepath.Join(dir, "real/sub")})
	for _, p := range []string{"parent/sub", "root", "root/", "root/."} {
		if got := digestOf(t, s, Source{Path: dir + "/" + p}); got.Digest != want.Digest || !got.Dir {
			t.Errorf("%s: %+v", p, got)
		}
	}
	m := mirrorOf(t, s, Source{Path: filepath.Join(dir, "root")}, want)
	checkMirror(t, s, m, want)
}

func TestNormalizeGit(t *testing.T) {
	a := write(t, t.TempDir(), map[string]string{"f": "", "x": "", "d/f": ""})
	b := write(t, t.TempDir(), map[string]string{"f": "", "x": "", "d/f": ""})
	for p, mode := range map[string]uint32{"f": 0o4664, "x": 0o700, "d": 0o2775, "d/f": 0o600} {
		ok(t, unix.Chmod(filepath.Join(a, p), mode))
	}
	ok(t, os.Chmod(filepath.Join(b, "x"), 0o755))
	ok(t, os.Chmod(a, 0o700))
	s := open(t, Options{})
	if digestOf(t, s, Source{Path: a}).Digest == digestOf(t, s, Source{Path: b}).Digest {
		t.Error("modes do not count")
	}
	ta := digestOf(t, s, Source{Path: a, Normalize: NormalizeGit})
	if ta.Digest != digestOf(t, s, Source{Path: b, Normalize: NormalizeGit}).Digest {
		t.Error(manifest(t, s, ta))
	}
}

func TestContentLeavesOutTheFolder(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": ""})
	s := open(t, Options{})
	content := digestOf(t, s, Source{Path: dir + "/", Content: true})
	whole := digestOf(t, s, Source{Path: dir})
	ok(t, os.Chmod(dir, 0o711))
	if digestOf(t, s, Source{Path: dir}).Digest == whole.Digest {
		t.Error("the folder's mode does not count")
	}
	if digestOf(t, s, Source{Path: dir + "/", Content: true}).Digest != content.Digest {
		t.Error("the folder's mode counts for its content")
	}
	if _, err := s.Digest(context.Background(), Source{Path: filepath.Join(dir, "f"), Content: true}); err == nil {
		t.Error("a file has content like a folder")
	}
}

// TestHardlinksAreFiles: which names are one inode must not count, as it does
// not survive git, and is not seen by device and inode across mounts.
func TestHardlinksAreFiles(t *testing.T) {
	a := write(t, t.TempDir(), map[string]string{"x": "1", "y": "1"})
	b := write(t, t.TempDir(), map[string]string{"x": "1"})
	ok(t, os.Link(filepath.Join(b, "x"), filepath.Join(b, "y")))
	s := open(t, Options{})
	if digestOf(t, s, Source{Path: a}).Digest != digestOf(t, s, Source{Path: b}).Digest {
		t.Error("hard links count")
	}
}

func TestBadSources(t *testing.T) {
	dir := t.TempDir()
	ok(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	socket(t, filepath.Join(dir, "socket"))
	ok(t, os.Symlink("fifo", filepath.Join(dir, "link")))
	ok(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	s := open(t, Options{})
	for name, want := range map[string]string{
		"fifo": "is a fifo", "socket": "is a socket", "link": "is a fifo", "loop": "leads to itself", "none": "does not exist",
		"../../../../../dev/null": "is a device",
	} {
		_, err := s.Digest(context.Background(), Source{Path: filepath.Join(dir, name)})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := s.Digest(context.Background(), Source{Path: filepath.Join(dir, "none")}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// socket leaves a unix socket at path. Its name may be longer than a socket's
// address.
func socket(t testing.TB, path string) {
	t.Helper()
	ok(t, unix.Mknod(path, unix.S_IFSOCK|0o644, 0))
}

func TestSocketsAreSkipped(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a/f": "", "b": ""})
	s := open(t, Options{})
	want := digestOf(t, s, Source{Path: dir})
	socket(t, filepath.Join(dir, "a", "agent"))
	socket(t, filepath.Join(dir, "c"))
	got := digestOf(t, s, Source{Path: dir})
	if got.Digest != want.Digest || !slices.Equal(got.Skipped, []string{"a/agent", "c"}) {
		t.Errorf("%+v", got)
	}
}

func TestForbiddenSources(t *testing.T) {
	project := write(t, t.TempDir(), map[string]string{"src/f": "", "oci/index.json": "{}"})
	state := filepath.Join(project, "state")
	later := filepath.Join(project, "later", "oci")
	s := must(Open(state, Options{Forbidden: []string{filepath.Join(project, "oci"), later}}))(t)
	ok(t, os.Symlink(project, filepath.Join(project, "src", "self")))
	digestOf(t, s, Source{Path: filepath.Join(project, "src")})
	ok(t, os.Symlink("../oci", filepath.Join(project, "src", "link")))
	for _, p := range []string{"/", state, state + "/trees", project + "/oci/", project + "/src/link", project + "/oci/index.json"} {
		if _, err := s.Digest(context.Background(), Source{Path: p}); err == nil {
			t.Errorf("%s is read", p)
		}
	}
}

// What the build writes into a folder that it reads is no content of that folder.
func TestForbiddenInSource(t *testing.T) {
	project := write(t, t.TempDir(), map[string]string{"src/f": ""})
	later := filepath.Join(project, "later", "oci")
	s := must(Open(filepath.Join(project, "state"), Options{Forbidden: []string{filepath.Join(project, "oci"), later}}))(t)
	ok(t, os.MkdirAll(filepath.Dir(later), 0o755))
	ok(t, os.Symlink(project, filepath.Join(project, "src", "self")))
	want := digestOf(t, s, Source{Path: project})
	write(t, project, map[string]string{"oci/index.json": "{}", "later/oci/index.json": "{}", "state/more": "more"})
	for _, p := range []string{project, filepath.Join(project, "src", "self")} {
		if got := digestOf(t, s, Source{Path: p}); got.Digest != want.Digest || got.Files != 1 {
			t.Errorf("%s: %+v, want %+v", p, got, want)
		}
	}
}

func TestSourceInRoot(t *testing.T) {
	root := write(t, t.TempDir(), map[string]string{"usr/bin/tool": "tool", "etc/passwd": "inside"})
	ok(t, os.Symlink("/usr/bin", filepath.Join(root, "bin")))
	ok(t, os.Symlink("../../../../etc/passwd", filepath.Join(root, "usr/climb")))
	s := open(t, Options{})
	want := sha256.Sum256([]byte("tool"))
	if d := must(s.FileDigest(context.Background(), Source{Root: root, Path: "/bin/tool"}))(t); d.Encoded() != hex.EncodeToString(want[:]) {
		t.Error(d)
	}
	want = sha256.Sum256([]byte("inside"))
	if d := must(s.FileDigest(context.Background(), Source{Root: root, Path: "/usr/climb"}))(t); d.Encoded() != hex.EncodeToString(want[:]) {
		t.Error("climbed out")
	}
	if tree := digestOf(t, s, Source{Root: root, Path: "/"}); tree.Files != 2 {
		t.Errorf("%+v", tree)
	}
}

func TestEmptyFolder(t *testing.T) {
	s := open(t, Options{})
	if tree := digestOf(t, s, Source{Path: t.TempDir()}); tree.Files != 0 || tree.Size != 0 || !tree.Dir {
		t.Errorf("%+v", tree)
	}
}

func TestDamagedManifest(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": "x"})
	s := open(t, Options{})
	tree := digestOf(t, s, Source{Path: dir})
	ok(t, os.WriteFile(s.manifestPath(tree.Digest), []byte("garbage"), 0o644))
	if _, err := s.Entries(tree.Digest); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if _, err := s.Entries(tree.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	digestOf(t, s, Source{Path: dir})
	must(s.Entries(tree.Digest))(t)
}

func TestCompare(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a-b": "", "a/f": "1", "a/g": "2", "c": "3", "m": "", "x": "", "t": ""})
	ok(t, os.Symlink("1", filepath.Join(dir, "l")))
	s := open(t, Options{})
	old := must(s.Entries(digestOf(t, s, Source{Path: dir}).Digest))(t)
	ok(t, os.Remove(filepath.Join(dir, "a/g")))
	ok(t, os.WriteFile(filepath.Join(dir, "a/f"), []byte("9"), 0o644))
	ok(t, os.WriteFile(filepath.Join(dir, "n"), nil, 0o644))
	ok(t, os.Chmod(filepath.Join(dir, "m"), 0o755))
	ok(t, unix.Setxattr(filepath.Join(dir, "x"), "user.new", nil, 0))
	ok(t, os.Remove(filepath.Join(dir, "l")))
	ok(t, os.Symlink("2", filepath.Join(dir, "l")))
	ok(t, os.Remove(filepath.Join(dir, "t")))
	ok(t, os.Mkdir(filepath.Join(dir, "t"), 0o755))
	var got []string
	for _, d := range must(Compare(old, must(s.Entries(digestOf(t, s, Source{Path: dir}).Digest))(t)))(t) {
		var keys []string
		for _, key := range d.Diff() {
			keys = append(keys, string(key.Type())+" "+string(key.Name()))
		}
		slices.Sort(keys)
		got = append(got, fmt.Sprint(d.Path(), " ", d.Type(), keys))
	}
	want := []string{"a/f modified[modified sha256digest]", "a/g missing[]", "l modified[modified link]", "m modified[modified mode]", "n extra[]",
		"t modified[missing sha256digest missing size modified mode modified type]", "x modified[extra xattr.user.new]"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if c := must(Compare(old, old))(t); len(c) != 0 {
		t.Error(c)
	}
}
