package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// noop builds chains that are found in the cache, beside starting the binary.
func noop(b *bench) error {
	for _, n := range []int{10, 100, 1000} {
		dir, err := b.project(fmt.Sprintf("chain-%d", n), chain(n))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
			return err
		}
		build := b.layerbuild(dir, "build", "--quiet")
		if _, err := timed(build); err != nil {
			return err
		}
		if err := compare(fmt.Sprintf("all-hit build, %d chained layers : --version", n), build, b.layerbuild(dir, "--version")); err != nil {
			return err
		}
	}
	return nil
}

// chain is a stackerfile of n layers, each on the one before. Overlayfs takes no
// more than 998 layers that add something, so every fourth adds nothing.
func chain(n int) string {
	var w strings.Builder
	for i := range n {
		from := "{type: scratch}"
		if i > 0 {
			from = fmt.Sprintf("{type: built, tag: layer%d}", i-1)
		}
		fmt.Fprintf(&w, "layer%d:\n  from: %s\n  cmd: [c%d]\n  build_only: %v\n", i, from, i, i < n-1)
		if i%4 != 0 {
			fmt.Fprintf(&w, "  imports: [{path: file, dest: /file%d}]\n", i)
		}
	}
	return w.String()
}

// records builds ten layers with a state folder that remembers ten, beside one
// that remembers ten thousand more.
func records(b *bench) error {
	small, err := b.project("few-records", chain(10))
	if err != nil {
		return err
	}
	large, err := b.project("many-records", chain(10))
	if err != nil {
		return err
	}
	for _, dir := range []string{small, large} {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
			return err
		}
		if _, err := timed(b.layerbuild(dir, "build", "--quiet")); err != nil {
			return err
		}
	}
	if err := copyRecords(filepath.Join(b.dir, "state-many-records/layerbuild/records/rootfs"), 10000); err != nil {
		return err
	}
	return compare("10 layers, 10,000 other records : none", b.layerbuild(large, "build", "--quiet"), b.layerbuild(small, "build", "--quiet"))
}

// copyRecords copies one record under n keys: what counts is how many there are.
func copyRecords(dir string, n int) error {
	files, err := filepath.Glob(filepath.Join(dir, "*/*.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no records in %s: %w", dir, err)
	}
	record, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	for i := range n {
		key := fmt.Sprintf("%064x", uint64(i)*0x9e3779b97f4a7c15)
		path := filepath.Join(dir, key[len(key)-2:], key[2:]+key[:2]+".json")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, record, 0o600); err != nil {
			return err
		}
	}
	return nil
}
