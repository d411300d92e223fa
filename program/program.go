// Package program starts programs of this machine that help a build: git, runtimes, makers
// of filesystems, credential helpers. What they do is decided by who installed them and by
// the user, never by the project: they are found in absolute folders of PATH alone, run in
// the folder "/", and have an environment that names no settings of their own.
package program

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// path returns PATH without its relative folders, which are the project's: an empty one,
// too, is the folder that the user is in.
func path() string {
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return strings.Join(dirs, string(filepath.ListSeparator))
}

// Find returns the absolute path of a program of that name, in PATH or in one of the other
// folders. The error is exec.ErrNotFound in its chain when there is none.
func Find(name string, folders ...string) (string, error) {
	if name != filepath.Base(name) {
		return "", fmt.Errorf("%q is not the name of a program", name)
	}
	for _, dir := range append(filepath.SplitList(path()), folders...) {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// Command returns the call of a program, given by its name or its absolute path. Of the
// environment it has PATH and where the user's settings are. A name that Find does not
// find is an error of its start.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	found, err := name, error(nil)
	if !filepath.IsAbs(name) {
		found, err = Find(name)
	}
	cmd := exec.CommandContext(ctx, found, args...)
	cmd.Err = err
	cmd.Args[0] = name
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + path(), "LC_ALL=C"}
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}

// Environment adds to the call those variables of the environment that keep accepts. They
// replace none that it has.
func Environment(cmd *exec.Cmd, keep func(name string) bool) {
	var more []string
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); keep(name) {
			more = append(more, v)
		}
	}
	cmd.Env = append(more, cmd.Env...) // of equal names the last counts
}
