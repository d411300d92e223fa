package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A tree is what tells two folders apart, times left out: a line of text for each
// path below the folder.
type tree map[string]string

// readTree reads folder but for the paths that except names and all below them.
func readTree(folder string, except []string) (tree, error) {
	t := make(tree)
	links := make(map[[2]uint64]string) // (device, inode) of files with several names → the first of them
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		if slices.Contains(except, name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		t[name], err = describe(path, name, links)
		return err
	})
	return t, err
}

// describe returns all that makes up the file at path, called name in its tree.
func describe(path, name string, links map[[2]uint64]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	text := fmt.Sprintf("mode=%06o owner=%d:%d", st.Mode, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		sum, err := checksum(path)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" size=%d sha256=%x", st.Size, sum)
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" target=%q", target)
	case unix.S_IFBLK, unix.S_IFCHR:
		text += fmt.Sprintf(" device=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		inode := [2]uint64{st.Dev, st.Ino}
		if links[inode] == "" {
			links[inode] = name
		}
		text += fmt.Sprintf(" link=%q", links[inode])
	}
	xattrs, err := readXattrs(path)
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		text += fmt.Sprintf(" %s=%x", name, xattrs[name])
	}
	return text, err
}

func checksum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return nil, err
	}
	return hash.Sum(nil), nil
}

func readXattrs(path string) (map[string]string, error) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, &fs.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	xattrs := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return nil, &fs.PathError{Op: "lgetxattr " + name, Path: path, Err: err}
		}
		xattrs[name] = string(buf[:n])
	}
	return xattrs, nil
}

// compare tells in what a and b differ: "-" is a's, "+" is b's.
func (a tree) compare(b tree) []string {
	var differences []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if a[name] != b[name] {
			differences = append(differences, fmt.Sprintf("- %q %s", name, a[name]))
			if b[name] != "" {
				differences = append(differences, fmt.Sprintf("+ %q %s", name, b[name]))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if a[name] == "" {
			differences = append(differences, fmt.Sprintf("+ %q %s", name, b[name]))
		}
	}
	return differences
}
