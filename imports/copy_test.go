package imports

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listing returns what is in a folder: path, type and mode, content or target.
func listing(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		ok(t, err)
		rel := must(filepath.Rel(dir, p))(t)
		switch info := must(d.Info())(t); {
		case rel == ".":
		case d.IsDir():
			lines = append(lines, rel+"/ "+info.Mode().Perm().String()[1:])
		case d.Type() == fs.ModeSymlink:
			lines = append(lines, rel+" -> "+must(os.Readlink(p))(t))
		default:
			lines = append(lines, rel+" "+info.Mode().Perm().String()[1:]+" "+string(must(os.ReadFile(p))(t)))
		}
		return nil
	})
	ok(t, err)
	return lines
}

// TestCopyDestinations is the table of what dest means.
func TestCopyDestinations(t *testing.T) {
	outside := t.TempDir()
	tests := []struct {
		name    string
		path    string // of the source: f, or the folder d with d/g and d/s/h
		content bool
		dest    string
		as      string // Name
		want    []string
	}{
		{"file to a new name", "f", false, "/new", "", []string{"new rw-r--r-- F"}},
		{"file to a new folder", "f", false, "/x/y/", "", []string{"x/ rwxr-xr-x", "x/y/ rwxr-xr-x", "x/y/f rw-r--r-- F"}},
		{"file to a new name in new folders", "f", false, "/x/y", "", []string{"x/ rwxr-xr-x", "x/y rw-r--r-- F"}},
		{"file into the root", "f", false, "/", "", []string{"f rw-r--r-- F"}},
		{"file into a folder by its name", "f", false, "/", "called", []string{"called rw-r--r-- F"}},
		{"file into a folder that is there", "f", false, "/usr/lib", "", []string{"usr/lib/f rw-r--r-- F"}},
		{"file through a link to a folder", "f", false, "/lib", "", []string{"usr/lib/f rw-r--r-- F"}},
		{"file onto a file", "f", false, "/etc/conf", "", []string{"etc/conf rw-r--r-- F"}},
		{"file onto a link to a file", "f", false, "/etc/link", "", []string{"etc/link rw-r--r-- F"}},
		{"file through an absolute link out", "f", false, "/out/f", "", []string{"" + strings.TrimPrefix(outside, "/") + "/f rw-r--r-- F"}},
		{"file through a climbing link", "f", false, "/climb/f", "", []string{"f rw-r--r-- F"}},
		{"climbing dest", "f", false, "/../../f", "", []string{"f rw-r--r-- F"}},
		{"folder to a new name", "d", false, "/new", "", []string{"new/ rwxr-x---", "new/g rw-r--r-- G", "new/s/ rwxr-xr-x", "new/s/h rw-r--r-- H"}},
		{"folder into a folder", "d", false, "/usr/", "", []string{"usr/d/ rwxr-x---", "usr/d/g rw-r--r-- G", "usr/d/s/ rwxr-xr-x", "usr/d/s/h rw-r--r-- H"}},
		{"folder onto a folder", "d", false, "/usr", "", []string{"usr/g rw-r--r-- G", "usr/s/ rwxr-xr-x", "usr/s/h rw-r--r-- H"}},
		{"folder through a link", "d", false, "/lib", "", []string{"usr/lib/g rw-r--r-- G", "usr/lib/s/ rwxr-xr-x", "usr/lib/s/h rw-r--r-- H"}},
		{"content to a new folder", "d", true, "/new", "", []string{"new/ rwxr-xr-x", "new/g rw-r--r-- G", "new/s/ rwxr-xr-x", "new/s/h rw-r--r-- H"}},
		{"content into the root", "d", true, "/", "", []string{"g rw-r--r-- G", "s/ rwxr-xr-x", "s/h rw-r--r-- H"}},
		{"content over links to folders", "usrmerge", true, "/", "", []string{"usr/lib/new rw-r--r-- N"}},
	}
	source := write(t, t.TempDir(), map[string]string{"f": "F", "d/g": "G", "d/s/h": "H", "usrmerge/lib/new": "N"})
	ok(t, os.Chmod(filepath.Join(source, "d"), 0o750))
	s := open(t, Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := write(t, t.TempDir(), map[string]string{"etc/conf": "old", "usr/lib/libc": ""})
			for name, to := range map[string]string{"lib": "usr/lib", "etc/link": "conf", "out": outside, "climb": "../../.."} {
				ok(t, os.Symlink(to, filepath.Join(root, name)))
			}
			before := listing(t, root)
			src := Source{Path: filepath.Join(source, test.path), Content: test.content}
			tree := digestOf(t, s, src)
			ok(t, s.Copy(context.Background(), src, tree, root, test.dest, CopyOptions{Name: test.as, Epoch: time.Unix(7, 0)}))
			added := slices.DeleteFunc(listing(t, root), func(l string) bool { return slices.Contains(before, l) })
			// The folders on the way to what is outside are made inside.
			if strings.HasPrefix(test.dest, "/out") {
				added = added[len(added)-1:]
			}
			if !slices.Equal(added, test.want) {
				t.Errorf("added %q, want %q", added, test.want)
			}
			if left := must(os.ReadDir(outside))(t); len(left) > 0 {
				t.Error("it came out of the root")
			}
		})
	}
}

func TestCopyOfEverything(t *testing.T) {
	src := Source{Path: special(t)}
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	root := t.TempDir()
	uid, gid := 1234, 0
	ok(t, s.Copy(context.Background(), src, tree, root, "/a/b", CopyOptions{UID: &uid, GID: &gid, Epoch: time.Unix(12345, 0)}))
	if got := digestOf(t, s, Source{Path: filepath.Join(root, "a/b")}); got.Digest != tree.Digest {
		t.Errorf("%v", differing(must(s.Entries(tree.Digest))(t), must(s.Entries(got.Digest))(t)))
	}
	err := filepath.WalkDir(filepath.Join(root, "a/b"), func(p string, d fs.DirEntry, err error) error {
		ok(t, err)
		var st unix.Stat_t
		ok(t, unix.Lstat(p, &st))
		if st.Uid != 1234 || st.Gid != 0 || st.Mtim.Sec != 12345 {
			t.Errorf("%s: owner %d:%d, mtime %d", p, st.Uid, st.Gid, st.Mtim.Sec)
		}
		return nil
	})
	ok(t, err)
}

func TestCopyMode(t *testing.T) {
	src := Source{Path: write(t, t.TempDir(), map[string]string{"d/f": ""})}
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	for _, mode := range []fs.FileMode{0o4711, 0o711 | fs.ModeSetuid} {
		root := t.TempDir()
		ok(t, s.Copy(context.Background(), src, tree, root, "/x", CopyOptions{Mode: &mode}))
		var st unix.Stat_t
		ok(t, unix.Stat(filepath.Join(root, "x/d/f"), &st))
		if st.Mode&0o7777 != 0o4711 {
			t.Errorf("file: %o", st.Mode)
		}
		ok(t, unix.Stat(filepath.Join(root, "x/d"), &st))
		if st.Mode&0o7777 != 0o755 {
			t.Errorf("folder: %o", st.Mode)
		}
	}
}

// TestCopyKeepsOtherNames: a file that is replaced may be another name of a file
// that is not.
func TestCopyKeepsOtherNames(t *testing.T) {
	src := Source{Path: filepath.Join(write(t, t.TempDir(), map[string]string{"f": "new"}), "f")}
	root := write(t, t.TempDir(), map[string]string{"f": "old"})
	ok(t, os.Link(filepath.Join(root, "f"), filepath.Join(root, "other")))
	s := open(t, Options{})
	ok(t, s.Copy(context.Background(), src, digestOf(t, s, src), root, "/f", CopyOptions{}))
	if got := listing(t, root); !slices.Equal(got, []string{"f rw-r--r-- new", "other rw-r--r-- old"}) {
		t.Error(got)
	}
}

func TestCopyRefuses(t *testing.T) {
	source := write(t, t.TempDir(), map[string]string{"file": "x", "tree/etc": "a file", "deep/conf/in": ""})
	s := open(t, Options{})
	for dest, test := range map[string]struct {
		path, want string
		content    bool
	}{
		"/":          {"tree", "/etc is a folder in the image", true},
		"/etc":       {"deep", "/etc/conf is no folder in the image", true},
		"/etc/conf/": {"file", "no folder in the image", false},
		"/loop/x":    {"file", "symbolic links", false},
	} {
		root := write(t, t.TempDir(), map[string]string{"etc/conf": "old"})
		ok(t, os.Symlink("loop", filepath.Join(root, "loop")))
		src := Source{Path: filepath.Join(source, test.path), Content: test.content}
		err := s.Copy(context.Background(), src, digestOf(t, s, src), root, dest, CopyOptions{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s to %s: %v, want %q", test.path, dest, err, test.want)
		}
	}
}

func TestCopyRefusesWhatIsNotTheTree(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"f": "1"})
	src := Source{Path: dir}
	s := open(t, Options{})
	tree := digestOf(t, s, src)
	ok(t, os.WriteFile(filepath.Join(dir, "f"), []byte("2"), 0o644))
	if err := s.Copy(context.Background(), src, tree, t.TempDir(), "/x", CopyOptions{}); !errors.Is(err, ErrChanged) {
		t.Error(err)
	}
}
