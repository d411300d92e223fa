package explain

import (
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// DiffLines compares two texts and returns the lines that went ("- …") and came
// ("+ …"), each group with one line of what is around it ("  …").
func DiffLines(old, new string) []string {
	unified := string(diff.Diff("", []byte(ended(old)), "", []byte(ended(new))))
	var all []string
	for line := range strings.Lines(unified) {
		switch text := strings.TrimSuffix(line, "\n"); {
		case len(all) == 0 && !strings.HasPrefix(line, "@@"): // the names of the texts
		case strings.HasPrefix(line, "@@"):
			all = append(all, "")
		default:
			all = append(all, text[:1]+" "+text[1:])
		}
	}
	return withContext(all)
}

// ended is text whose last line ends: whether it does is no difference.
func ended(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

// withContext keeps the lines that differ, and one on each side of them.
func withContext(all []string) (out []string) {
	differs := func(i int) bool { return i >= 0 && i < len(all) && all[i] != "" && all[i][0] != ' ' }
	for i, line := range all {
		if line != "" && (differs(i) || differs(i-1) || differs(i+1)) {
			out = append(out, line)
		}
	}
	return out
}
