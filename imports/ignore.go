package imports

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// IgnoreFile is the name of files that say what of their folder is no content,
// by the rules of gitignore(5).
const IgnoreFile = ".layerbuildignore"

// maxIgnoreFile bounds an IgnoreFile, in bytes.
const maxIgnoreFile = 1 << 20

// A Rule is one line of an IgnoreFile, or one pattern of Source.Ignore.
type Rule struct {
	Pattern string
	File    string // the IgnoreFile, by its path below the source; "" for Source.Ignore
	Line    int    // in File, or the pattern's number in Source.Ignore; from 1

	negated  bool // takes back what an earlier rule said
	dirOnly  bool
	anywhere bool // matches a name wherever it is, not a path
	glob     *glob
}

// Ignores tells whether what the rule matches is ignored; otherwise the rule
// takes that back.
func (r *Rule) Ignores() bool { return !r.negated }

// ignoring is the rules that hold in one folder of a source, and how to find
// those of the folders in it. The nil ignoring ignores nothing.
type ignoring struct {
	up    *ignoring // rules of the folder above; they come after these
	dir   string    // the folder that these are relative to; "." is the source
	rules []Rule
	last  []Rule // Source.Ignore: these come first
	files bool   // IgnoreFiles count
}

// ignoring returns the rules that the source begins with.
func (src *Source) ignoring() *ignoring {
	if len(src.Ignore) == 0 && !src.IgnoreFiles {
		return nil
	}
	ig := &ignoring{dir: ".", files: src.IgnoreFiles}
	for i, pattern := range src.Ignore {
		if rule, ok := parseRule(pattern); ok {
			rule.Line = i + 1
			ig.last = append(ig.last, rule)
		}
	}
	return ig
}

// parseRule reads a pattern as git does. It is false for one that matches nothing.
func parseRule(line string) (r Rule, ok bool) {
	r.Pattern = line
	line, r.negated = strings.CutPrefix(line, "!")
	line, r.dirOnly = strings.CutSuffix(line, "/")
	r.anywhere = !strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return r, false
	}
	r.glob = compileGlob(line)
	return r, true
}

// trimSpaces removes spaces at the end, but for an escaped one.
func trimSpaces(line string) string {
	end := 0
	for i := 0; i < len(line); i++ {
		if line[i] == '\\' {
			i++
		} else if line[i] == ' ' {
			continue
		}
		end = min(i+1, len(line))
	}
	return line[:end]
}

// parseIgnoreFile reads the rules of a file at a path below the source.
func parseIgnoreFile(file string, text []byte) (rules []Rule) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _ = strings.CutSuffix(line, "\n")
		line, _ = strings.CutSuffix(line, "\r")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if rule, ok := parseRule(trimSpaces(line)); ok {
			rule.File, rule.Line = file, number
			rules = append(rules, rule)
		}
	}
	return rules
}

// rule returns the rule that decides about the file at p, or nil. It does not
// look at the folders that p lies in.
func (ig *ignoring) rule(p string, dir bool) *Rule {
	if ig == nil {
		return nil
	}
	if found := decide(ig.last, p, dir); found != nil {
		return found
	}
	for at := ig; at != nil; at = at.up {
		below := p
		if at.dir != "." {
			below = p[len(at.dir)+1:]
		}
		if found := decide(at.rules, below, dir); found != nil {
			return found
		}
	}
	return nil
}

// decide returns the last of the rules that matches.
func decide(rules []Rule, p string, dir bool) *Rule {
	for i := len(rules) - 1; i >= 0; i-- {
		r := &rules[i]
		text := p
		if r.anywhere {
			text = path.Base(p)
		}
		if (dir || !r.dirOnly) && r.glob.match(text) {
			return r
		}
	}
	return nil
}

// ignores tells whether the file at p, in the folder of these rules, is no content.
func (ig *ignoring) ignores(p string, dir bool) bool {
	if ig == nil {
		return false
	}
	if ig.files && !dir && path.Base(p) == IgnoreFile {
		return true
	}
	r := ig.rule(p, dir)
	return r != nil && r.Ignores()
}

// below returns the rules that hold in a folder, which is open.
func (ig *ignoring) below(fd int, dir string) (*ignoring, error) {
	if ig == nil || !ig.files {
		return ig, nil
	}
	text, err := readIgnoreFile(fd)
	file := path.Join(dir, IgnoreFile)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", file, err)
	}
	rules := parseIgnoreFile(file, text)
	if len(rules) == 0 {
		return ig, nil
	}
	return &ignoring{up: ig, dir: dir, rules: rules, last: ig.last, files: true}, nil
}

// readIgnoreFile returns nothing when the open folder has no such file. A folder
// of that name is content.
func readIgnoreFile(dir int) ([]byte, error) {
	fd, err := unix.Openat(dir, IgnoreFile, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case errors.Is(err, unix.ELOOP):
		return nil, errors.New("it is a symlink: make it a file")
	case err != nil:
		return nil, err
	}
	defer unix.Close(fd)
	st, err := statFd(fd)
	if err != nil || st.isDir() {
		return nil, err
	}
	if !st.isRegular() || st.size > maxIgnoreFile {
		return nil, fmt.Errorf("it should be a file of at most %d bytes", maxIgnoreFile)
	}
	text := make([]byte, st.size)
	for n := 0; n < len(text); {
		m, err := readAt(fd, text[n:], int64(n))
		if err == io.EOF {
			return text[:n], nil
		}
		if err != nil {
			return nil, err
		}
		n += m
	}
	return text, nil
}

// Ignored returns the rule that decides about a path below a folder source, or
// nil when there is none, or when the source is a file. The rule is that of the
// path itself or, when a folder on the way is ignored, that of the folder.
func Ignored(src Source, below string) (*Rule, error) {
	var s Store // it keeps nothing
	root, st, err := s.openSource(src)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	if !st.isDir() {
		return nil, nil
	}
	ig, dir := src.ignoring(), "."
	elements := strings.Split(filepath.Clean(below), "/")
	for i := range elements {
		fd, err := openBeneath(root, dir)
		if err != nil {
			return nil, sourceError(src, err)
		}
		if ig, err = ig.below(fd, dir); err != nil {
			unix.Close(fd)
			return nil, named(src.Path, err)
		}
		var st status
		dir = join(dir, elements[i])
		err = statAt(fd, cString(elements[i]), 0, &st)
		unix.Close(fd)
		isDir := st.isDir()
		if errors.Is(err, unix.ENOENT) {
			isDir = i < len(elements)-1 // what would be of it if it was there
		} else if err != nil {
			return nil, named(path.Join(src.Path, dir), err)
		}
		r := ig.rule(dir, isDir)
		if i == len(elements)-1 || r != nil && r.Ignores() || err != nil {
			return r, nil
		}
	}
	return nil, nil
}

func cString(s string) *byte {
	return &slices.Concat([]byte(s), []byte{0})[0]
}
