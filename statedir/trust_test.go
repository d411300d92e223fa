package statedir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCheck refuses what another user may have put into a state folder, leaves it as it is, and puts
// aside what is damaged.
func TestCheck(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving files to another user needs root")
	}
	const stranger = 65534
	for _, row := range []struct {
		what  string
		plant func(d Dir) error
		want  string // in the error; "" for none
	}{
		{"nothing", func(d Dir) error { return nil }, ""},
		{"readable for others", func(d Dir) error { return os.Chmod(string(d), 0o755) }, ""},
		{"writable for others", func(d Dir) error { return os.Chmod(string(d), 0o777) }, "others may write to"},
		{"writable for its group", func(d Dir) error { return os.Chmod(string(d), 0o770) }, "others may write to"},
		{"a stranger's", func(d Dir) error { return os.Chown(string(d), stranger, stranger) }, "belongs to user 65534"},
		{"a stranger's file", func(d Dir) error { return os.Chown(d.Path("version"), stranger, 0) }, "version belongs to user 65534"},
		{"a stranger's folder", func(d Dir) error { return os.Chown(d.Path("tmp"), stranger, 0) }, "tmp belongs to user 65534"},
		{"a stranger's layout", func(d Dir) error { return os.Chown(d.Path("layout/blobs/sha256"), stranger, 0) }, "sha256 belongs to user 65534"},
		{"a migration's folder", func(d Dir) error { return os.Symlink("/", d.Path("records.4")) }, "records.4 is a link"},
		{"a link for tmp", func(d Dir) error { return replace(d.Path("tmp"), "/etc") }, "tmp is a link"},
		{"a dangling link", func(d Dir) error { return replace(d.Path("snapshots"), "/nowhere") }, "snapshots is a link"},
		{"a link in the layout", func(d Dir) error { return replace(d.Path("layout/blobs"), "/etc") }, "blobs is a link"},
		{"a link for a file", func(d Dir) error { return replace(d.Path("version"), "/etc/passwd") }, "version is a link"},
		{"a place for root filesystems", func(d Dir) error { return os.Symlink(t.TempDir(), d.Path("roots")) }, ""},
		{"what is not layerbuild's", func(d Dir) error {
			return both(os.Mkdir(d.Path("lost+found"), 0o700), os.Chown(d.Path("lost+found"), stranger, 0))
		}, ""},
		{"a fifo for a file", func(d Dir) error {
			return both(os.Remove(d.Path("version")), unix.Mkfifo(d.Path("version"), 0o600))
		}, ""},
		{"a file for a folder", func(d Dir) error {
			return both(os.RemoveAll(d.Path("tmp")), os.WriteFile(d.Path("tmp"), nil, 0o600))
		}, ""},
		{"a file for corrupt", func(d Dir) error { return os.WriteFile(d.Path("corrupt"), nil, 0o600) }, ""},
	} {
		t.Run(row.what, func(t *testing.T) {
			d := Dir(filepath.Join(t.TempDir(), "state"))
			for _, folder := range []string{"tmp", "snapshots", "layout/blobs/sha256"} {
				if err := os.MkdirAll(d.Path(folder), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := both(os.WriteFile(d.Path("version"), []byte("3\n"), 0o600), row.plant(d)); err != nil {
				t.Fatal(err)
			}
			err := d.Check()
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("%v, want %q", err, row.want)
			}
			if err == nil {
				err = d.Check()
			}
			if row.want == "" && err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
	if err := Dir(filepath.Join(t.TempDir(), "none")).Check(); err != nil {
		t.Error(err)
	}
}

func replace(path, by string) error { return both(os.RemoveAll(path), os.Symlink(by, path)) }

func both(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// TestCheckRoots takes a folder for root filesystems that is root's, or has other things in it.
func TestCheckRoots(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving files to another user needs root")
	}
	for _, row := range []struct {
		what  string
		plant func(d Dir) error
		want  string
	}{
		{"things of others", func(d Dir) error { return both(os.Mkdir(d.Path("x"), 0o700), os.Chown(d.Path("x"), 1, 1)) }, ""},
		{"as /tmp is", func(d Dir) error { return unix.Chmod(string(d), 0o1777) }, ""},
		{"writable for all", func(d Dir) error { return os.Chmod(string(d), 0o777) }, "others may write to"},
		{"a stranger's", func(d Dir) error { return os.Chown(string(d), 1, 1) }, "belongs to user 1"},
		{"a link", func(d Dir) error { return os.Symlink("/etc", d.Path("snapshots")) }, "snapshots is a link"},
	} {
		d := Dir(t.TempDir())
		if err := row.plant(d); err != nil {
			t.Fatal(err)
		}
		if err := d.CheckRoots(); row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.what, err, row.want)
		}
	}
}
