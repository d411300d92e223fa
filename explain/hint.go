package explain

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
)

// HintFor returns what would have made a hit of the miss, where all that the
// inputs differ in shows it; otherwise "".
func HintFor(reasons []Reason) string {
	var hints []string
	for _, r := range reasons {
		var hint string
		switch r.Code {
		case buildcache.First, buildcache.Evicted, buildcache.Missing, buildcache.Corrupt, buildcache.Failed, buildcache.Untrusted:
			continue // with inputs that have a result, they would not count
		case buildcache.Import, buildcache.Overlay, buildcache.Bind:
			hint = treeHint(r)
		case buildcache.Env:
			hint = envHint(r)
		case buildcache.BaseChange:
			hint = tagHint(r)
		}
		if hint == "" {
			return ""
		}
		if !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
	}
	return strings.Join(hints, "; ")
}

func treeHint(r Reason) string {
	if len(r.Changes) == 0 || r.More > 0 {
		return ""
	}
	if !r.normalized && !slices.ContainsFunc(r.Changes, func(c Change) bool { return !onlyUmask(c) }) {
		return "only modes differ, as by another umask: `normalize: git` keeps of modes what git keeps"
	}
	seen := map[string]bool{}
	var kinds []string
	for _, c := range r.Changes {
		kind := generated(c.Path)
		if kind == "" {
			return ""
		}
		if !seen[kind] {
			seen[kind] = true
			kinds = append(kinds, kind)
		}
	}
	if r.Code != buildcache.Import {
		return "only generated files differ (" + strings.Join(kinds, ", ") + "): keep them elsewhere"
	}
	return "only generated files differ: put " + strings.Join(kinds, " and ") + " into " + ignoreFile
}

const ignoreFile = ".layerbuildignore"

// onlyUmask tells whether a change is one of mode that git would not see.
func onlyUmask(c Change) bool {
	if c.Op != "~" || len(c.Attributes) != 1 || c.Attributes[0].Name != "mode" {
		return false
	}
	before, err1 := strconv.ParseUint(c.Attributes[0].Old, 8, 32)
	after, err2 := strconv.ParseUint(c.Attributes[0].New, 8, 32)
	return err1 == nil && err2 == nil && before&0o7100 == after&0o7100
}

// generated returns the pattern that ignores a file which tools leave behind, or
// "" for any other file.
func generated(p string) string {
	for element := range strings.SplitSeq(p, "/") {
		switch element {
		case ".git", ".hg", ".svn", "__pycache__", ".idea", ".vscode", ".pytest_cache", ".mypy_cache":
			return element + "/"
		}
	}
	base := path.Base(p)
	for _, pattern := range []string{"*.pyc", "*.pyo", "*.swp", "*.swo", "*~", ".#*", ".DS_Store", "Thumbs.db"} {
		if ok, _ := path.Match(pattern, base); ok {
			return pattern
		}
	}
	return ""
}

var counterName = regexp.MustCompile(`(?i)(^|_)(time|date|timestamp|now|epoch|run_?id|run_?number|build_?(id|number|no|num|time|date)|pipeline_?i?id|job_?id)(_|$)`)

// envHint looks for a variable that is other in each build.
func envHint(r Reason) string {
	name := strings.TrimPrefix(r.Name, "env ")
	if r.Old == "" || r.New == "" || r.Redacted {
		return ""
	}
	if counterName.MatchString(name) || instant(r.Old) && instant(r.New) {
		leave := "the build environment"
		if r.Directive != "" {
			leave = "`" + r.Directive + "`"
		}
		return name + " looks like a time or a build number, and is other in each build: leave it out of " + leave +
			", or set it to the commit's"
	}
	return ""
}

// instant tells whether a value is a time: RFC 3339, a date with a time, or
// seconds since 1970 of this century.
func instant(value string) bool {
	for _, layout := range []string{time.RFC3339, time.RFC1123, time.RFC1123Z, time.UnixDate, time.DateTime, "20060102-150405", "20060102150405"} {
		if _, err := time.Parse(layout, value); err == nil {
			return true
		}
	}
	seconds, err := strconv.ParseFloat(value, 64)
	return err == nil && seconds > 946684800 && seconds < 4102444800
}

// tagHint looks for a tag of a registry that stands for something else now.
func tagHint(r Reason) string {
	before, was, ok1 := strings.Cut(r.Old, " ")
	after, is, ok2 := strings.Cut(r.New, " ")
	if !ok1 || !ok2 || before != after || was == is || !strings.HasPrefix(after, "docker://") || strings.Contains(after, "@") {
		return ""
	}
	return "the tag moved: to stay where it is, pin it as " + after + "@" + is
}
