package engine

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
)

// Find returns the stackerfiles below a folder, sorted: the files whose path,
// from the folder on and with a slash before it, matches the pattern. Symbolic
// links are not followed, and the folders of except are not entered.
func Find(dir, pattern string, except ...string) ([]string, error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("--stacker-file-pattern: %w", err)
	}
	skip, err := absolutes(except)
	if err != nil {
		return nil, err
	}
	var found []string
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipAny(path, skip)
		}
		below, err := filepath.Rel(dir, path)
		if err == nil && entry.Type().IsRegular() && match.MatchString("/"+below) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for stackerfiles: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no file below %s matches %q: --search-dir and --stacker-file-pattern say where stackerfiles are", dir, pattern)
	}
	return found, nil
}

func absolutes(paths []string) ([]string, error) {
	all := make([]string, len(paths))
	for i, path := range paths {
		var err error
		if all[i], err = filepath.Abs(path); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func skipAny(dir string, skip []string) error {
	path, err := filepath.Abs(dir)
	if err == nil && slices.Contains(skip, path) {
		return filepath.SkipDir
	}
	return err
}
