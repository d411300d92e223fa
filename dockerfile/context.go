package dockerfile

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A context is the build context: its files, without what .dockerignore leaves out.
type context struct {
	files  fs.FS
	ignore []ignoreRule
}

// An ignoreRule is a line of .dockerignore.
type ignoreRule struct {
	parts []string // of the pattern
	keep  bool     // it begins with !: what matches is there after all
}

// readIgnore reads .dockerignore, or the one of this Dockerfile alone.
func (c *context) readIgnore(dockerfile string) error {
	text, err := fs.ReadFile(c.files, dockerfile+".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		text, err = fs.ReadFile(c.files, ".dockerignore")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pattern, keep := strings.CutPrefix(line, "!")
		pattern = strings.TrimPrefix(path.Clean("/"+strings.TrimSpace(pattern)), "/")
		if pattern != "" {
			c.ignore = append(c.ignore, ignoreRule{strings.Split(pattern, "/"), keep})
		}
	}
	return err
}

// ignored tells whether .dockerignore leaves out a file: the last rule that matches
// it, or a folder that it is in, decides.
func (c *context) ignored(file string) bool {
	ignored := false
	parts := split(file)
	for _, rule := range c.ignore {
		if rule.keep != ignored {
			continue
		}
		for n := range parts {
			if match(rule.parts, parts[:n+1]) {
				ignored = !rule.keep
				break
			}
		}
	}
	return ignored
}

// ignoreIn returns the rules as patterns of gitignore for a folder of the context.
// What gitignore cannot say is lost: of a folder that is left out nothing is kept.
func (c *context) ignoreIn(folder string) (patterns, lost []string) {
	for _, rule := range c.ignore {
		for _, rest := range below(rule.parts, split(folder)) {
			pattern := "/" + strings.Join(rest, "/")
			if !rule.keep {
				patterns = append(patterns, pattern)
				continue
			}
			kept := strings.Join(rule.parts, "/")
			if len(rest) > 1 && slices.ContainsFunc(c.ignore, func(other ignoreRule) bool {
				return !other.keep && len(other.parts) < len(rule.parts) && match(other.parts, rule.parts[:len(other.parts)])
			}) {
				lost = append(lost, kept)
				continue
			}
			patterns = append(patterns, "!"+pattern)
		}
	}
	return patterns, lost
}

// below returns what is left of a pattern for what lies in a folder; several ways to
// match it where the pattern has **.
func below(pattern, folder []string) (rest [][]string) {
	switch {
	case len(pattern) == 0:
		return nil
	case len(folder) == 0:
		return [][]string{pattern}
	case pattern[0] == "**":
		return append(below(pattern, folder[1:]), below(pattern[1:], folder)...)
	}
	if ok, _ := path.Match(pattern[0], folder[0]); !ok {
		return nil
	}
	return below(pattern[1:], folder[1:])
}

// match tells whether a pattern matches a whole path; ** stands for any folders.
func match(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		return match(pattern[1:], name) || len(name) > 0 && match(pattern, name[1:])
	}
	if len(name) == 0 {
		return false
	}
	ok, _ := path.Match(pattern[0], name[0])
	return ok && match(pattern[1:], name[1:])
}

// glob returns the paths that a source with wildcards stands for.
func (c *context) glob(pattern string) (found []string, err error) {
	parts := split(pattern)
	err = fs.WalkDir(c.files, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || file == "." {
			return err
		}
		if match(parts, split(file)) && !c.ignored(file) {
			found = append(found, file)
		}
		if entry.IsDir() && !slices.Contains(parts, "**") && len(split(file)) >= len(parts) {
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}

// isDir tells whether a path is a folder; an error when it is not there.
func (c *context) isDir(file string) (bool, error) {
	info, err := fs.Stat(c.files, file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, errors.New("it is not in the build context")
	case err != nil:
		return false, err
	case c.ignored(file):
		return false, errors.New(".dockerignore leaves it out")
	}
	return info.IsDir(), nil
}

// split returns the parts of a slash-separated path; none of ".".
func split(file string) []string {
	if file = path.Clean(file); file == "." {
		return nil
	}
	return strings.Split(strings.TrimPrefix(file, "/"), "/")
}
