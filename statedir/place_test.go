package statedir

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPlace notices that a folder was moved or restored, and not that it was only renamed.
func TestPlace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("trusted extended attributes and other owners need root")
	}
	for _, row := range []struct {
		what  string
		move  string // a shell command that makes the folder b of the folder a, in which there is b, empty
		moved bool
	}{
		{"nothing", "rmdir b; mv a b", false},
		{"a careful copy", "rmdir b; cp -a a b", true},
		{"a plain copy", "rmdir b; cp -r a b", true},
		{"a tar", "tar -C a -c . | tar -C b -x", true},
		{"a careful tar", "tar --xattrs --xattrs-include='*' -C a -c . | tar --xattrs --xattrs-include='*' -C b -xp", true},
		{"what is in it restored", "tar -C a -cf t .; rmdir b; mv a b; rm -rf b/*; tar -C b -xf t", true},
		{"the canary's owner", "rmdir b; mv a b; chown -h 0:0 b/canary; chmod 6755 b/canary", true},
		{"the canary's mode", "rmdir b; mv a b; chmod 755 b/canary", true},
		{"no canary", "rmdir b; mv a b; rm b/canary", true},
		{"the canary restored with all it has", "rmdir b; mv a b; cp -a b/canary c; rm b/canary; cp -a c b/canary", false},
	} {
		dir := t.TempDir()
		a, b := Dir(filepath.Join(dir, "a")), Dir(filepath.Join(dir, "b"))
		for _, folder := range []Dir{a, b} {
			if err := os.Mkdir(string(folder), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(a.Path("tmp"), 0o700); err != nil {
			t.Fatal(err)
		}
		first := placeOf(t, a)
		if again := placeOf(t, a); again != first || first.Moved || first.Elders {
			t.Fatalf("%+v, then %+v", first, again)
		}
		if unix.Lsetxattr(a.Path("tmp"), "trusted.layerbuild", nil, 0) == nil && first.Xattr == "" {
			t.Error("the canary has no extended attribute")
		}
		cmd := exec.Command("sh", "-ec", row.move)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", row.what, err, out)
		}
		now := placeOf(t, b)
		if now.Moved != row.moved || now.ID != first.ID != row.moved {
			t.Errorf("%s: moved %v, want %v", row.what, now.Moved, row.moved)
		}
		if again := placeOf(t, b); again != now {
			t.Errorf("%s: %+v, then %+v", row.what, now, again)
		}
		if err := b.Told(now); err != nil {
			t.Error(err)
		}
		if told := placeOf(t, b); told.Moved || told.ID != now.ID {
			t.Errorf("%s: after it was told: %+v", row.what, told)
		}
	}
}

// TestPlaceOfElders trusts what was there before there were places, until the folder is moved.
func TestPlaceOfElders(t *testing.T) {
	d := newDir(t)
	if err := os.MkdirAll(d.Path("snapshots", "elder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if p := placeOf(t, d); !p.Elders || p.Moved {
		t.Errorf("%+v", p)
	}
	if p := placeOf(t, d); !p.Elders {
		t.Errorf("%+v", p)
	}
	if err := os.Remove(d.Path("canary")); err != nil {
		t.Fatal(err)
	}
	if p := placeOf(t, d); p.Elders || !p.Moved {
		t.Errorf("%+v", p)
	}
}

func placeOf(t *testing.T, d Dir) Place {
	t.Helper()
	p, err := d.Place()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
