package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A state folder is given away with what is its owner's, and nothing that it links to.
func TestGive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	state, outside := filepath.Join(dir, "state"), filepath.Join(dir, "outside")
	for _, path := range []string{state, filepath.Join(state, "records"), outside} {
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(state, "link")); err != nil {
		t.Fatal(err)
	}
	owner := func(path string) uint32 {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Uid
	}
	u := User{Name: "u", UID: 12345, GID: 12345}
	if given, err := give(state, u); !given || err != nil {
		t.Fatal(given, err)
	}
	if owner(filepath.Join(state, "records")) != 12345 || owner(filepath.Join(state, "link")) != 12345 || owner(outside) != 0 {
		t.Error("other files were given than those of the folder")
	}
	if given, err := give(state, u); given || err != nil {
		t.Errorf("it was given twice: %v", err)
	}

	file := filepath.Join(state, "of-root")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := give(state, User{Name: "v", UID: 23456, GID: 23456})
	if err == nil || !strings.Contains(err.Error(), "of-root belongs to user 0, and the state folder to user 12345") || owner(file) != 0 {
		t.Errorf("a file of another owner: %v, now of %d", err, owner(file))
	}
}
