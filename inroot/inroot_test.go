package inroot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ways are all functions that take a path below a root. Each returns what it reads there: the
// text of the file "word" in the folder at path, where it can be had.
var ways = map[string]func(root, path string) (string, error){
	"Open": func(root, path string) (string, error) {
		f, err := Open(root, path+"/word")
		return text(f, err, func() (*os.File, error) { return reopen(f, path, 0) })
	},
	"Folder": func(root, path string) (string, error) {
		dir, err := Folder(root, path)
		return text(dir, err, func() (*os.File, error) { return FileIn(dir, "word") })
	},
	"File": func(root, path string) (string, error) {
		f, err := File(root, path+"/word")
		return text(f, err, func() (*os.File, error) { return f, nil })
	},
	"Resolve": func(root, path string) (string, error) {
		rel, err := Resolve(root, path+"/word")
		if err != nil {
			return "", err
		}
		data, err := os.ReadFile(filepath.Join(root, rel))
		return string(data), err
	},
	"WalkFolder": func(root, path string) (string, error) {
		at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return "", err
		}
		defer unix.Close(at)
		fd, err := WalkFolder(at, path, nil)
		if err != nil {
			return "", err
		}
		dir := os.NewFile(uintptr(fd), path)
		return text(dir, nil, func() (*os.File, error) { return FileIn(dir, "word") })
	},
}

func text(handle *os.File, err error, open func() (*os.File, error)) (string, error) {
	if err != nil {
		return "", err
	}
	defer handle.Close()
	f, err := open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

// Wherever a path has a link to the host, by its whole path or by climbing, what is found is
// what a process sees whose root the folder is: the same path below it, or nothing.
func TestLinksAtEveryElement(t *testing.T) {
	host := t.TempDir()
	put(t, filepath.Join(host, "word"), "the host's")
	put(t, filepath.Join(host, "b/c/word"), "the host's")
	put(t, filepath.Join(host, "c/word"), "the host's")
	climb := strings.Repeat("../", 40)
	for _, target := range []string{host, climb + host, "/proc/self/root" + host, "/proc/1/root" + host} {
		for _, l := range [][2]string{{"a", target}, {"a/b", target}, {"a/b/c", target}, {"a/b/c/word", target + "/word"}} {
			root := t.TempDir()
			link(t, filepath.Join(root, l[0]), l[1])
			tryAll(t, root, "", l)
			if strings.Contains(target, "proc") {
				continue
			}
			for _, dir := range []string{"", "b/c", "c"} { // what it leads to exists below the root, too
				put(t, filepath.Join(root, host, dir, "word"), "the root's")
			}
			tryAll(t, root, "the root's", l)
		}
	}
}

func tryAll(t *testing.T, root, text string, link [2]string) {
	t.Helper()
	for name, way := range ways {
		want := text
		if strings.HasSuffix(name, "Folder") && link[0] == "a/b/c/word" {
			want = "" // FileIn follows no link
		}
		if got, err := way(root, "a/b/c"); got != want || (err == nil) != (want != "") {
			t.Errorf("%s where %s is a link to %s: %q, %v", name, link[0], link[1], got, err)
		}
	}
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, at, target string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, at); err != nil {
		t.Fatal(err)
	}
}

// What is neither a file nor a folder is never opened, and so nothing waits for it.
func TestSpecialFiles(t *testing.T) {
	root := t.TempDir()
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK} {
		if err := unix.Mknod(filepath.Join(root, name), mode|0o644, 0); err != nil {
			t.Fatal(err)
		}
	}
	link(t, filepath.Join(root, "link"), "fifo")
	link(t, filepath.Join(root, "loop"), "loop")
	dir, err := Folder(root, ".")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, name := range []string{"fifo", "socket", "link", "."} {
		if f, err := File(root, name); !errors.Is(err, ErrNotRegular) {
			t.Errorf("File of %s: %v, %v", name, f, err)
		}
		if f, err := FileIn(dir, name); !errors.Is(err, ErrNotRegular) {
			t.Errorf("FileIn of %s: %v, %v", name, f, err)
		}
		if f, err := Folder(root, name); name != "." && !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("Folder of %s: %v, %v", name, f, err)
		}
	}
	for _, name := range []string{"..", "../x", "a/b", ""} {
		if f, err := FileIn(dir, name); !errors.Is(err, unix.EINVAL) {
			t.Errorf("FileIn of %q: %v, %v", name, f, err)
		}
	}
	if _, err := File(root, "loop"); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if _, err := Folder(root, "none"); !errors.Is(err, fs.ErrNotExist) || err.Error() != "open none: no such file or directory" {
		t.Error(err)
	}
}

// What WalkFolder makes is below the root, wherever links lead.
func TestWalkFolderMakes(t *testing.T) {
	host, epoch := t.TempDir(), time.Unix(1_000_000_000, 0)
	for i, at := range []string{"a", "a/b", "a/b/c"} {
		root := t.TempDir()
		link(t, filepath.Join(root, at), host)
		fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		made, err := WalkFolder(fd, "a/b/c/d", &NewFolder{Mode: 0o755, Mtime: epoch})
		if err != nil {
			t.Fatal(err)
		}
		if path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", made)); !strings.HasPrefix(path, root+"/") {
			t.Errorf("with a link at element %d it made %s", i, path)
		}
		for _, name := range []string{".", ".."} {
			var st unix.Stat_t
			if err := unix.Fstatat(made, name, &st, 0); err != nil || st.Mtim.Sec != epoch.Unix() {
				t.Errorf("with a link at element %d, %s is of %v (%v)", i, name, st.Mtim, err)
			}
		}
		unix.Close(made)
		unix.Close(fd)
	}
	if left, err := os.ReadDir(host); err != nil || len(left) > 0 {
		t.Errorf("on the host there are %v, %v", left, err)
	}
}

// FuzzResolve: no path and no target of a link leads out of the root.
func FuzzResolve(f *testing.F) {
	f.Add("a/b", "/etc")
	f.Add("../../a", "../../../etc")
	f.Add("a/../../a//b/.", "b/../../..")
	f.Fuzz(func(t *testing.T, path, target string) {
		root := t.TempDir()
		put(t, filepath.Join(root, "f"), "the root's")
		if os.Symlink(target, filepath.Join(root, "a")) != nil {
			return
		}
		handle, err := Open(root, path)
		if err != nil {
			return
		}
		defer handle.Close()
		found, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()))
		if err != nil || found != root && !strings.HasPrefix(found, root+"/") {
			t.Errorf("%q with a link to %q: %s, %v", path, target, found, err)
		}
	})
}
