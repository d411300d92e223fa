package namespace

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestGrant(t *testing.T) {
	for _, c := range []struct{ before, added string }{
		{"", "me:100000:65536"},
		{"you:100000:65536\n", "me:165536:65536"},
		{"you:165536:65536", "me:100000:65536"},                        // a gap, and no newline at the end
		{"you:120000:10\nyou:130000:10\n", "me:130010:65536"},          // gaps that are too small
		{"you:231072:65536\nothers:100000:65536\n", "me:165536:65536"}, // in no order
		{"me:100000:1000\n", "me:101000:65536"},                        // too few
		{"you:10:5\n# none\n\n", "me:100000:65536"},
		{"me:500000:65536\n", ""},
		{"1000:500000:65536\n", ""}, // by number
		{"me:1000000:40000\nme:2000000:40000\n", ""},
	} {
		file := filepath.Join(t.TempDir(), "subuid")
		if err := os.WriteFile(file, []byte(c.before), 0o644); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time nothing is added
			if _, err := grant(file, "me", 1000); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		before := c.before
		if before != "" && c.added != "" {
			before = strings.TrimSuffix(before, "\n") + "\n"
		}
		if c.added != "" {
			before += c.added + "\n"
		}
		if string(text) != before {
			t.Errorf("%q became\n%q, not\n%q", c.before, text, before)
		}
	}
}

func TestGrantIsLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(file+".lock", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := grant(file, "me", 1000); err == nil || !strings.Contains(err.Error(), "is being changed by process "+strconv.Itoa(os.Getpid())) {
		t.Error(err)
	}
	// Of a process that has ended.
	if err := os.WriteFile(file+".lock", []byte("4194305"), 0o600); err != nil {
		t.Fatal(err)
	}
	if what, err := grant(file, "me", 1000); err != nil || what != file+": me has 100000 to 165535" {
		t.Error(what, err)
	}
	if _, err := os.Stat(file + ".lock"); err == nil {
		t.Error("the lock stays")
	}
}

func TestGrantWithoutRoom(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(file, []byte("all:100000:600000001\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := grant(file, "me", 1000); err == nil {
		t.Error("there is no room")
	}
}
