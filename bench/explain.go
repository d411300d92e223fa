package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// explaining measures what it costs to keep what explains a build: of builds that
// find everything, the part of the time, of which 1 % is the most; and of the
// state folder, records, trees and journals beside the snapshots that they
// explain, of which 5 % is the most.
func explaining(b *bench) error {
	for _, n := range []int{10, 100} {
		dir, err := b.project(fmt.Sprintf("explained-%d", n), chain(n))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
			return err
		}
		build := b.layerbuild(dir, "build", "--debug")
		var journals, wholes times
		for i := range *runs + 1 {
			start := time.Now()
			out, err := exec.Command(build[0], build[1:]...).CombinedOutput()
			whole := time.Since(start)
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			journal, err := journalTime(out)
			if err != nil {
				return err
			}
			if i > 0 { // the first one builds
				journals, wholes = append(journals, journal), append(wholes, whole)
			}
		}
		slices.Sort(journals)
		slices.Sort(wholes)
		fmt.Printf("%-42s %27s   %27s   %.4f\n", fmt.Sprintf("journal : all-hit build, %d layers", n), journals, wholes, float64(journals.median())/float64(wholes.median()))
	}
	return explainedSize(b)
}

var journalLine = regexp.MustCompile(`kept the journal of the build in (\d+)µs`)

func journalTime(out []byte) (time.Duration, error) {
	found := journalLine.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("the build says nothing of its journal:\n%s", out)
	}
	n, err := strconv.Atoi(string(found[1]))
	return time.Duration(n) * time.Microsecond, err
}

// explainedSize builds layers of some thousand files as a program's sources have
// them, edits one, and builds again.
func explainedSize(b *bench) error {
	const files, size = 3000, 4 << 10
	dir, err := b.project("explained-size", "base:\n  from: {type: scratch}\n  imports: [{path: src, dest: /src}]\napp:\n  from: {type: built, tag: base}\n  imports: [{path: src, dest: /again}]\n")
	if err != nil {
		return err
	}
	r := rand.NewChaCha8([32]byte{})
	for i := range files {
		path := filepath.Join(dir, "src", fmt.Sprintf("package%d/file%d.go", i/30, i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		text := make([]byte, size/2)
		_, _ = r.Read(text)
		if err := os.WriteFile(path, fmt.Appendf(nil, "%x", text), 0o644); err != nil {
			return err
		}
	}
	for i := range 2 {
		if err := os.WriteFile(filepath.Join(dir, "src/package0/file0.go"), bytes.Repeat([]byte{'x'}, i), 0o644); err != nil {
			return err
		}
		if _, err := timed(b.layerbuild(dir, "build")); err != nil {
			return err
		}
	}
	state := filepath.Join(b.dir, "state-explained-size/layerbuild")
	var told int64
	for _, folder := range []string{"records", "latest", "trees", "builds"} {
		n, err := sizeOf(filepath.Join(state, folder))
		if err != nil {
			return err
		}
		told += n
	}
	snapshots, err := sizeOf(filepath.Join(state, "snapshots"))
	if err != nil {
		return err
	}
	kib := func(n int64) string { return fmt.Sprintf("%d KiB", n>>10) }
	fmt.Printf("%-42s %27s   %27s   %.4f\n", "records, trees, journals : snapshots", kib(told), kib(snapshots), float64(told)/float64(snapshots))
	return nil
}

func sizeOf(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
