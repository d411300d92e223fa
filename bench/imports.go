package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// importing builds one layer that imports a large folder. Knowing that nothing
// changed must cost no more than git takes to know it, and a process to start.
func importing(b *bench) error {
	var tree string
	for _, n := range []int{20000, 100000} {
		dir, err := b.project(fmt.Sprintf("import-%d", n), "app:\n  from: {type: scratch}\n  imports: [{path: tree, dest: /tree}]\n")
		if err != nil {
			return err
		}
		tree = filepath.Join(dir, "tree")
		if err := fill(tree, n); err != nil {
			return err
		}
		git, err := repository(dir, tree)
		if err != nil {
			return err
		}
		build := b.layerbuild(dir, "build", "--quiet")
		for range 2 { // the second has no young files
			if _, err := timed(build); err != nil {
				return err
			}
		}
		start := []string{"sh", "-c", `"$@" && ` + b.binary + " --version", "sh"}
		if err := compare(fmt.Sprintf("all-hit build, %d files imported : git status and --version", n), build, append(start, append(git, "status", "--porcelain")...)); err != nil {
			return err
		}
		if err := compare(fmt.Sprintf("all-hit build, %d files imported : find", n), build, []string{"find", tree, "-printf", "%s %T@"}); err != nil {
			return err
		}
		if err := peak(fmt.Sprintf("all-hit build, %d files imported", n), build); err != nil {
			return err
		}
		plan := "rm -rf state && XDG_CACHE_HOME=$PWD/state " + b.binary + " build --dry-run || test $? -eq 3" // a layer would be built
		if err := compare(fmt.Sprintf("first digest of %d files : xargs sha256sum", n), []string{"sh", "-c", "cd " + dir + " && " + plan},
			[]string{"sh", "-c", "find " + tree + " -type f -print0 | xargs -0 -P2 -n500 sha256sum"}); err != nil {
			return err
		}
	}
	return mirroring(b, tree)
}

// repository puts a folder under git, and returns the command with which git looks
// at it. The repository itself is no part of the folder.
func repository(dir, tree string) ([]string, error) {
	git := []string{"git", "--git-dir", filepath.Join(dir, "repository"), "--work-tree", tree}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"}, {"status"}} {
		if _, err := timed(slices.Concat(git, args)); err != nil {
			return nil, err
		}
	}
	return git, nil
}

// mirroring has a step that reads a large folder: for the first time, and when one
// file of it is another.
func mirroring(b *bench, tree string) error {
	base, err := busybox()
	if err != nil {
		return err
	}
	stackerfile := fmt.Sprintf("app:\n  from: {type: oci, url: '%s:latest'}\n  imports: [tree]\n  run: 'true'\n", base)
	many, err := b.project("mirror-many", stackerfile)
	if err != nil {
		return err
	}
	one, err := b.project("mirror-one", stackerfile)
	if err != nil {
		return err
	}
	if err := os.Rename(tree, filepath.Join(many, "tree")); err != nil {
		return err
	}
	if err := fill(filepath.Join(one, "tree"), 1); err != nil {
		return err
	}
	copied := filepath.Join(b.dir, "copied")
	err = compareSides("a first step that reads 100000 files : cp -a",
		func() (time.Duration, error) {
			if err := os.RemoveAll(filepath.Join(b.dir, "state-mirror-many")); err != nil {
				return 0, err
			}
			return timed(b.layerbuild(many, "build", "--quiet"))
		}, func() (time.Duration, error) {
			took, err := timed([]string{"cp", "-a", filepath.Join(many, "tree"), copied})
			return took, errors.Join(err, os.RemoveAll(copied))
		})
	if err != nil {
		return err
	}
	return compareSides("one file edited of 100000 : of one, over an all-hit build",
		func() (time.Duration, error) { return edited(b, many) }, func() (time.Duration, error) { return edited(b, one) })
}

// edited is how much longer a build takes when one file was edited.
func edited(b *bench, dir string) (time.Duration, error) {
	build := b.layerbuild(dir, "build", "--quiet")
	for range 2 {
		if _, err := timed(build); err != nil {
			return 0, err
		}
		time.Sleep(100 * time.Millisecond) // files that are younger are read again
	}
	unchanged, err := timed(build)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "tree/000/000/00"), []byte(time.Now().String()), 0o644); err != nil {
		return 0, err
	}
	changed, err := timed(build)
	return changed - unchanged, err
}

// fill makes n files of 4 KiB, a hundred in a folder.
func fill(tree string, n int) error {
	for i := range n {
		path := filepath.Join(tree, fmt.Sprintf("%03d/%03d/%02d", i/10000, i/100%100, i%100))
		if i%100 == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
		}
		content := strings.Repeat(fmt.Sprintf("%07d\n", i), 512)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
