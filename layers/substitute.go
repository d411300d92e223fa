package layers

import (
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/layerbuild/layerbuild/redact"
)

// A substitution gives the value of a `${{name}}`.
type substitution struct {
	name, value string
	given       bool // by --substitute
	stays       bool // the placeholder is not replaced: see portable
}

// portable returns substitutions of which those by a path of this machine or by a secret
// leave the placeholder as it is.
func portable(subs []substitution) []substitution {
	all := slices.Clone(subs)
	for i, s := range all {
		all[i].stays = filepath.IsAbs(s.value) || redact.Variable(s.name, s.value)
	}
	return all
}

// minSecret is how many bytes a value has at least that is taken for a secret wherever it is
// found: shorter ones occur everywhere.
const minSecret = 4

// secrets returns the values of substitutions that are named like secrets.
func secrets(subs []substitution) (values []string) {
	for _, s := range subs {
		if redact.Name(s.name) && len(s.value) >= minSecret {
			values = append(values, s.value)
		}
	}
	return values
}

const (
	opening = "${{"
	closing = "}}"

	// MaxSize bounds a stackerfile, before and after substitution: as YAML nodes
	// the worst text takes a hundred times its size.
	MaxSize = 4 << 20
	// maxSubstitutions bounds the work of values that refer to other values.
	maxSubstitutions = 1 << 20
	// maxNesting bounds defaults within defaults. It also keeps the search for
	// the end of each of many unclosed placeholders short.
	maxNesting = 16
)

// An expanded is a stackerfile's text after substitution, and the way back: all
// positions that people see are those of the original.
type expanded struct {
	original string
	text     string
	segments []segment
	used     map[string]bool // the names of its placeholders

	textMarks, originalMarks marks // made when first needed
}

// A segment of the text, up to the next one, comes from the offset in of the
// original: a copy of what stands there, or the value of a placeholder there.
type segment struct {
	out, in int
	copied  bool
}

// expand substitutes as stacker does: one substitution at a time in the order
// given, so that the first of two with one name wins, and a value may refer to a
// later one but not to itself or an earlier one: it always ends. What is then left
// takes its default.
//
// fail hears of each placeholder without a value, which is replaced by its name.
func expand(original string, subs []substitution, fail func(offset int, format string, args ...any)) *expanded {
	x := expander{subs: subs, fail: fail, used: map[string]bool{}}
	x.expand(original, 0, true, 0)
	return &expanded{original: original, text: x.out.String(), segments: x.segments, used: x.used}
}

type expander struct {
	subs     []substitution
	fail     func(offset int, format string, args ...any)
	out      strings.Builder
	segments []segment
	used     map[string]bool
	count    int
	stopped  bool
}

// expand writes s with its placeholders replaced by those of x.subs from index
// first on. It stands at the offset at of the original, or, unless copied, is the
// value of a placeholder there.
func (x *expander) expand(s string, at int, copied bool, first int) {
	for s != "" && !x.stopped {
		i := strings.Index(s, opening)
		if i < 0 {
			x.write(s, at, copied)
			return
		}
		p, closed := scanPlaceholder(s[i:], maxNesting)
		if !closed && copied {
			x.fail(at+i, "%s is not closed: write ${{NAME}} or ${{NAME:default}}", quote(opening+p.name))
		}
		if !closed {
			i, p.size = i+len(opening), 0
		}
		x.write(s[:i], at, copied)
		if copied {
			at += i
		}
		if closed {
			x.placeholder(p, at, copied, first)
		}
		if copied {
			at += p.size
		}
		s = s[i+p.size:]
	}
}

func (x *expander) placeholder(p placeholder, at int, copied bool, first int) {
	if x.count++; x.count > maxSubstitutions {
		x.stop(at, "more than %d substitutions: values refer to each other too often", maxSubstitutions)
		return
	}
	x.used[p.name] = true
	for i := first; i < len(x.subs); i++ {
		switch {
		case x.subs[i].name != p.name:
			continue
		case x.subs[i].stays:
			x.write(opening+p.name+closing, at, false)
		default:
			x.expand(x.subs[i].value, at, false, i+1)
		}
		return
	}
	if p.hasDefault {
		if copied {
			at += p.defaultAt
		}
		x.expand(p.value, at, copied, first)
		return
	}
	x.fail(at, "substitution %s has no value: give one with --substitute %s=VALUE, or a default with ${{%s:default}}",
		quote(p.name), plain(p.name), plain(p.name))
	x.write(p.name, at, false)
}

func (x *expander) write(s string, at int, copied bool) {
	if x.out.Len()+len(s) > MaxSize {
		x.stop(at, "the stackerfile is larger than %d MiB after substitution", MaxSize>>20)
		return
	}
	x.segments = append(x.segments, segment{out: x.out.Len(), in: at, copied: copied})
	x.out.WriteString(s)
}

func (x *expander) stop(at int, format string, args ...any) {
	if !x.stopped {
		x.stopped = true
		x.fail(at, format, args...)
	}
}

// A placeholder is one `${{name}}` or `${{name:default}}`.
type placeholder struct {
	name       string
	hasDefault bool
	value      string // the default, which may hold placeholders
	defaultAt  int    // its offset in the placeholder
	size       int    // of the whole
}

// scanPlaceholder reads the placeholder at the beginning of s. Its name ends before
// a colon, its default before a brace that closes no placeholder within.
func scanPlaceholder(s string, nesting int) (p placeholder, closed bool) {
	at := len(opening)
	if end := strings.IndexAny(s[at:], ":}$\r\n"); end >= 0 {
		s, p.name = s[at+end:], s[at:at+end]
		at += end
	} else {
		p.name = s[at:]
		return p, false
	}
	if strings.HasPrefix(s, closing) {
		p.size = at + len(closing)
		return p, true
	}
	if nesting == 0 || s[0] != ':' {
		return p, false
	}
	p.hasDefault, p.defaultAt = true, at+1
	end, closed := scanDefault(s[1:], nesting-1)
	if closed {
		p.value = s[1 : 1+end]
		p.size = p.defaultAt + end + len(closing)
	}
	return p, closed
}

// scanDefault returns the size of the default at the beginning of s.
func scanDefault(s string, nesting int) (size int, closed bool) {
	for {
		i := strings.IndexAny(s[size:], "}$")
		if i < 0 {
			return 0, false
		}
		size += i
		switch {
		case s[size] == '}':
			return size, strings.HasPrefix(s[size:], closing)
		case strings.HasPrefix(s[size:], opening):
			nested, closed := scanPlaceholder(s[size:], nesting)
			if !closed {
				return 0, false
			}
			size += nested.size
		default:
			size++
		}
	}
}

// position translates a line and column of the text, as YAML counts them, to the
// original's, as editors do. Both count characters from 1.
func (e *expanded) position(line, column int) (int, int) {
	if e.textMarks == nil {
		e.textMarks = markText(e.text, isYAMLBreak)
	}
	return e.originalPosition(e.offset(e.textMarks.offset(e.text, line, column)))
}

// offset is where in the original the byte at out of the text comes from.
func (e *expanded) offset(out int) int {
	i := sort.Search(len(e.segments), func(i int) bool { return e.segments[i].out > out })
	if i == 0 {
		return 0
	}
	s := e.segments[i-1]
	if s.copied {
		return s.in + out - s.out
	}
	return s.in
}

// originalPosition is the line and column of an offset in the original.
func (e *expanded) originalPosition(offset int) (line, column int) {
	if e.originalMarks == nil {
		e.originalMarks = markText(e.original, func(r rune) bool { return r == '\n' })
	}
	return e.originalMarks.position(e.original, offset)
}

// Marks are positions of a text: of each line's beginning, and of further characters
// of long lines, so that finding any other takes but a few steps from the last mark
// before it.
type marks []mark

type mark struct{ offset, line, column int }

// isYAMLBreak is b-char of YAML 1.1, which is what yaml.v3 counts lines by.
func isYAMLBreak(r rune) bool {
	return r == '\n' || r == '\r' || r == '\u0085' || r == '\u2028' || r == '\u2029'
}

func markText(text string, isBreak func(rune) bool) marks {
	const apart = 256
	all := marks{{0, 1, 1}}
	line, column := 1, 1
	for i, r := range text {
		if column%apart == 0 {
			all = append(all, mark{i, line, column})
		}
		column++
		if isBreak(r) && (r != '\r' || !strings.HasPrefix(text[i+1:], "\n")) {
			line, column = line+1, 1
			all = append(all, mark{i + utf8.RuneLen(r), line, column})
		}
	}
	return all
}

// offset is where the character at line and column begins, or the end of the text.
func (m marks) offset(text string, line, column int) int {
	next := sort.Search(len(m), func(i int) bool {
		return m[i].line > line || m[i].line == line && m[i].column > column
	})
	last := m[max(next-1, 0)]
	for at := range text[last.offset:] {
		if last.column >= column {
			return last.offset + at
		}
		last.column++
	}
	return len(text)
}

func (m marks) position(text string, offset int) (line, column int) {
	last := m[sort.Search(len(m), func(i int) bool { return m[i].offset > offset })-1]
	return last.line, last.column + utf8.RuneCountInString(text[last.offset:offset])
}

// lines are the offsets at which lines begin.
func (m marks) lines() []int {
	var starts []int
	for _, mark := range m {
		if mark.column == 1 {
			starts = append(starts, mark.offset)
		}
	}
	return starts
}
