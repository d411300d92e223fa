package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// importing builds one layer that imports a large folder. Knowing that nothing
// changed must cost no more than git takes to know it.
func importing(b *bench) error {
	for _, n := range []int{20000, 100000} {
		dir, err := b.project(fmt.Sprintf("import-%d", n), "app:\n  from: {type: scratch}\n  imports: [{path: tree, dest: /tree}]\n")
		if err != nil {
			return err
		}
		tree := filepath.Join(dir, "tree")
		if err := fill(tree, n); err != nil {
			return err
		}
		git := []string{"git", "-C", tree}
		for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"}, {"status"}} {
			if _, err := timed(append(git, args...)); err != nil {
				return err
			}
		}
		// The repository itself is no part of what is imported.
		if err := os.Rename(filepath.Join(tree, ".git"), filepath.Join(dir, "repository")); err != nil {
			return err
		}
		git = []string{"git", "--git-dir", filepath.Join(dir, "repository"), "--work-tree", tree}
		build := b.layerbuild(dir, "build", "--quiet")
		if _, err := timed(build); err != nil {
			return err
		}
		if err := compare(fmt.Sprintf("all-hit build, %d files imported : git status", n), build, append(git, "status", "--porcelain")); err != nil {
			return err
		}
		if err := compare(fmt.Sprintf("all-hit build, %d files imported : find", n), build, []string{"find", tree, "-printf", "%s %T@"}); err != nil {
			return err
		}
	}
	return nil
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
