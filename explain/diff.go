package explain

import "strings"

// mostLines bounds the texts that are compared line by line: of longer ones the
// middle counts as changed as a whole.
const mostLines = 2000

// DiffLines compares two texts and returns the lines that went ("- …") and came
// ("+ …"), each group with one line of what is around it ("  …").
func DiffLines(old, new string) []string {
	a, b := splitLines(old), splitLines(new)
	start := 0
	for start < min(len(a), len(b)) && a[start] == b[start] {
		start++
	}
	end := 0
	for end < min(len(a), len(b))-start && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	var all []string
	for _, line := range a[:start] {
		all = append(all, "  "+line)
	}
	all = append(all, diffMiddle(a[start:len(a)-end], b[start:len(b)-end])...)
	for _, line := range a[len(a)-end:] {
		all = append(all, "  "+line)
	}
	return withContext(all)
}

func splitLines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// diffMiddle finds a longest common subsequence.
func diffMiddle(a, b []string) (out []string) {
	if len(a) > mostLines || len(b) > mostLines {
		for _, line := range a {
			out = append(out, "- "+line)
		}
		for _, line := range b {
			out = append(out, "+ "+line)
		}
		return out
	}
	// common[i][j] is how many lines a[i:] and b[j:] have in common.
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, "  "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}

// withContext keeps the lines that differ, and one on each side of them.
func withContext(all []string) (out []string) {
	differs := func(i int) bool { return i >= 0 && i < len(all) && all[i][0] != ' ' }
	for i, line := range all {
		if differs(i) || differs(i-1) || differs(i+1) {
			out = append(out, line)
		}
	}
	return out
}
