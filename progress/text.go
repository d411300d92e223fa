package progress

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// PlainText is a line that a step wrote without anything that a terminal obeys: escape
// sequences are left out with their parameters, a tab is spaces, and of what was
// overwritten after a carriage return the last is left, as a terminal would show it.
func PlainText(s string) string { return stripped(s, false) }

// ColoredText is PlainText with the colours and styles that the line has; they end with
// it. Nothing in it moves the cursor, sets a title, or reaches the clipboard.
func ColoredText(s string) string { return stripped(s, true) }

func stripped(s string, colors bool) string {
	s = strings.TrimRight(s, "\r")
	s = s[strings.LastIndexByte(s, '\r')+1:]
	unsafe := func(r rune) bool { return r == utf8.RuneError || !unicode.IsGraphic(r) }
	if strings.IndexFunc(s, unsafe) < 0 {
		return s
	}
	var out strings.Builder
	colored := false
	for len(s) > 0 {
		if s[0] == '\x1b' {
			n := escapeLen(s)
			if colors && isStyle(s[:n]) {
				out.WriteString(s[:n])
				colored = true
			}
			s = s[n:]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		switch {
		case r == '\t':
			out.WriteString("    ")
		case r == utf8.RuneError || unicode.IsGraphic(r):
			out.WriteRune(r)
		}
	}
	if colored {
		out.WriteString(styleReset)
	}
	return out.String()
}

const styleReset = "\x1b[0m"

// isStyle tells whether an escape sequence selects a colour or style: ECMA-48 8.3.117.
func isStyle(sequence string) bool {
	parameters, ok := strings.CutPrefix(sequence, "\x1b[")
	parameters, end := strings.CutSuffix(parameters, "m")
	return ok && end && strings.Trim(parameters, "0123456789:;") == ""
}

// Safe is a text in which all that is not printable is spelled out, as \u001b, but for
// newlines and tabs. JSON stays the same JSON.
func Safe(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var out strings.Builder
	for _, r := range s {
		switch {
		case !unprintable(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, "\\u%04x\\u%04x", high, low)
		default:
			fmt.Fprintf(&out, "\\u%04x", r)
		}
	}
	return out.String()
}

func unprintable(r rune) bool {
	return r != '\n' && r != '\t' && (r == utf8.RuneError || !strconv.IsPrint(r))
}

// NewSafeWriter returns a writer of Safe text to w. What is no whole character when a
// Write ends waits for the next one.
func NewSafeWriter(w io.Writer) io.Writer { return &safeWriter{w: w} }

type safeWriter struct {
	w    io.Writer
	part []byte
}

func (s *safeWriter) Write(p []byte) (int, error) {
	text := slices.Concat(s.part, p)
	whole := len(text)
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if start := len(text) - n; utf8.RuneStart(text[start]) && !utf8.FullRune(text[start:]) {
			whole = start
		}
	}
	s.part = bytes.Clone(text[whole:])
	if _, err := io.WriteString(s.w, Safe(string(text[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// escapeLen is the length of the escape sequence that s begins with: ECMA-48 5.4
// and 5.6.
func escapeLen(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[': // parameters and intermediates, then one final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', '^', '_', 'X': // a string up to BEL or ESC \
		for i := 2; i < len(s); i++ {
			if s[i] == '\a' {
				return i + 1
			}
			if s[i] == '\x1b' && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
		return len(s)
	}
	return 2
}

// textWidth is how many columns a plain text takes.
func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// cut shortens a plain text to some columns; an ellipsis stands for the rest.
func cut(s string, width int) string {
	if textWidth(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > width-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// wide are the characters that take two columns: those of East Asian Width W and F
// (Unicode annex 11), by blocks.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x1100, Hi: 0x115f, Stride: 1}, {Lo: 0x231a, Hi: 0x231b, Stride: 1}, {Lo: 0x23e9, Hi: 0x23ec, Stride: 1},
		{Lo: 0x25fd, Hi: 0x25fe, Stride: 1}, {Lo: 0x2614, Hi: 0x2615, Stride: 1}, {Lo: 0x2648, Hi: 0x2653, Stride: 1},
		{Lo: 0x26aa, Hi: 0x26ab, Stride: 1}, {Lo: 0x26bd, Hi: 0x26be, Stride: 1}, {Lo: 0x2705, Hi: 0x2705, Stride: 1},
		{Lo: 0x270a, Hi: 0x270b, Stride: 1}, {Lo: 0x2728, Hi: 0x2728, Stride: 1}, {Lo: 0x274c, Hi: 0x274c, Stride: 1},
		{Lo: 0x2753, Hi: 0x2755, Stride: 1}, {Lo: 0x2795, Hi: 0x2797, Stride: 1}, {Lo: 0x2b1b, Hi: 0x2b1c, Stride: 1},
		{Lo: 0x2b50, Hi: 0x2b50, Stride: 1}, {Lo: 0x2e80, Hi: 0x303e, Stride: 1}, {Lo: 0x3041, Hi: 0xa4cf, Stride: 1},
		{Lo: 0xa960, Hi: 0xa97c, Stride: 1}, {Lo: 0xac00, Hi: 0xd7a3, Stride: 1}, {Lo: 0xf900, Hi: 0xfaff, Stride: 1},
		{Lo: 0xfe30, Hi: 0xfe6b, Stride: 1}, {Lo: 0xff01, Hi: 0xff60, Stride: 1}, {Lo: 0xffe0, Hi: 0xffe6, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x16fe0, Hi: 0x18cff, Stride: 1}, {Lo: 0x1aff0, Hi: 0x1b2fb, Stride: 1}, {Lo: 0x1f18e, Hi: 0x1f19a, Stride: 1},
		{Lo: 0x1f200, Hi: 0x1f265, Stride: 1}, {Lo: 0x1f300, Hi: 0x1f64f, Stride: 1}, {Lo: 0x1f680, Hi: 0x1f6ff, Stride: 1},
		{Lo: 0x1f7e0, Hi: 0x1f7eb, Stride: 1}, {Lo: 0x1f900, Hi: 0x1faff, Stride: 1}, {Lo: 0x20000, Hi: 0x3fffd, Stride: 1},
	},
}

// runeWidth is how many columns a character takes.
func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}
