package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/layerbuild/layerbuild/explain"
)

// TestHistoryFits: a terminal shows a build on one line, with the end of its
// stackerfile, which tells more than the beginning.
func TestHistoryFits(t *testing.T) {
	var builds []*explain.Report
	for _, path := range []string{"/home/somebody/projects/a/stacker.yaml", "/x/stacker.yaml"} {
		builds = append(builds, &explain.Report{Build: explain.Build{Number: 12, Command: explain.CommandBuild, Seconds: 12.5, Result: explain.Interrupted, Stackerfile: path}})
	}
	for _, width := range []int{0, 80, 100} {
		var out strings.Builder
		if err := buildTable(&out, builds, width); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); width > 0 && n > width {
				t.Errorf("of %d columns: %d are taken by %q", width, n, line)
			}
		}
		if whole := strings.Contains(lines[1], "/home"); len(lines) != 3 || !strings.HasSuffix(lines[1], "a/stacker.yaml") || whole != (width != 80) || !strings.HasSuffix(lines[2], "  /x/stacker.yaml") {
			t.Errorf("of %d columns:\n%s", width, &out)
		}
	}
}
