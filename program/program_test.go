package program

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program of the folder that the user is in is not found, wherever PATH leads.
func TestFindNeverInTheProject(t *testing.T) {
	project, installed := t.TempDir(), t.TempDir()
	for _, file := range []string{filepath.Join(project, "git"), filepath.Join(project, "bin/git"), filepath.Join(installed, "git")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("#!/bin/sh\npwd; env\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(project)
	for _, path := range []string{".", "", "bin", "./bin:", "..:bin::."} {
		t.Setenv("PATH", path)
		if found, err := Find("git"); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("PATH=%q: %s, %v", path, found, err)
		}
		t.Setenv("PATH", path+":"+installed)
		if found, err := Find("git"); err != nil || found != filepath.Join(installed, "git") {
			t.Errorf("PATH=%q: %s, %v", path+":"+installed, found, err)
		}
	}
	for _, name := range []string{"./git", "bin/git", "../git", "", ".", "/"} {
		if err := Command(context.Background(), name).Start(); name != "/" && err == nil {
			t.Errorf("%q was started", name)
		}
	}
}

func TestCommandHasNoSettings(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PATH", ".:"+os.Getenv("PATH"))
	for _, v := range []string{"GIT_DIR", "LD_PRELOAD", "SOURCE_DATE_EPOCH", "NOTIFY_SOCKET"} {
		t.Setenv(v, "/none")
	}
	t.Setenv("KEPT", "yes")
	t.Setenv("HOME", "/home/of/user")
	cmd := Command(context.Background(), "sh", "-c", "pwd; env")
	Environment(cmd, func(name string) bool { return name == "KEPT" || name == "PATH" })
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	if !strings.HasPrefix(text, "/\n") || !strings.Contains(text, "HOME=/home/of/user") || !strings.Contains(text, "KEPT=yes") ||
		strings.Contains(text, "/none") || strings.Contains(text, "PATH=.") {
		t.Error(text)
	}
}
