package layers

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An Error is one fault of a stackerfile: one line that says where it is, what is
// wrong and what to do. What it quotes of the file is escaped, so that it can be
// shown on a terminal.
type Error struct {
	Pos   Position // none when the fault is of no single file
	Layer string   // "" when the fault is of no single layer
	Msg   string
}

func (e *Error) Error() string {
	switch {
	case e.Pos == Position{}:
		return e.Msg
	case e.Layer == "":
		return fmt.Sprintf("%s: %s", e.Pos, e.Msg)
	}
	return fmt.Sprintf("%s: layer %s: %s", e.Pos, quote(e.Layer), e.Msg)
}

// Errors are all faults of a build's stackerfiles, sorted by file and position.
// There is at least one.
type Errors []*Error

// Error is one line a fault.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find each Error.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// mostErrors keeps the faults of a file that is no stackerfile at all within what
// somebody could read.
const mostErrors = 1000

func (e *Errors) add(pos Position, layer, format string, args ...any) {
	if e.full() {
		return
	}
	if len(*e) == mostErrors {
		layer, format, args = "", "there are more than %d errors: mend these first", []any{mostErrors}
	}
	*e = append(*e, &Error{Pos: pos, Layer: layer, Msg: fmt.Sprintf(format, args...)})
}

func (e *Errors) full() bool { return len(*e) > mostErrors }

// Err is e sorted and each fault once, or nil when there is none.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.Pos.File, b.Pos.File),
			cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Column, b.Pos.Column),
			cmp.Compare(a.Layer, b.Layer),
			cmp.Compare(a.Msg, b.Msg))
	})
	return slices.CompactFunc(e, func(a, b *Error) bool { return *a == *b })
}

// userinfo is what stands before the host in a URL: it may hold a password.
var userinfo = regexp.MustCompile(`(://)[^/?#\s]*@`)

// quote shows text of a stackerfile in a message: on one line, without control
// characters and passwords of URLs, cut when it is long.
func quote(s string) string {
	const longest = 100
	s = userinfo.ReplaceAllString(s, "${1}xxxxx@")
	if len(s) <= longest {
		return strconv.Quote(s)
	}
	cut := longest
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "…"
}

// plain is s itself where that is safe to show, else quoted.
func plain(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			return quote(s)
		}
	}
	return s
}

// DidYouMean is what ends a message about an unknown name: the known name that is
// most like it, or nothing when none is.
func DidYouMean(name string, known []string) string {
	best, least := "", max(1, min(len(name)/3, 3))+1
	for _, k := range known {
		if len(k)-len(name) >= least || len(name)-len(k) >= least {
			continue // so many letters are missing at least
		}
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + quote(best) + "?"
}

// distance counts the letters to insert, remove, replace, or swap with the next
// to get from a to b.
func distance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
