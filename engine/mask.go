package engine

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A mask hides the lines of secrets in text: as they are, and in what shells and programs
// make of them, see newMask. What is hidden becomes "***".
type mask struct {
	forms   []form
	longest int // bytes of text that one secret can take
}

// minMasked is how long a line is at least that is hidden: shorter ones occur everywhere.
const minMasked = 4

// mostQuoted is how many bytes one byte of a secret becomes at most: a single quote '"'"'.
const mostQuoted = 5

// newMask hides each line of the values, also
//   - with the quotes and backslashes that `sh -x`, printf %q and JSON add: all shells keep
//     the order of the bytes between them, whichever way they quote;
//   - with control and other bytes as escapes, \n, \303, \x1b or \u00e9, as bash and JSON have them;
//   - with bytes as %27, as in URLs,
//
// and the base64 of each value.
func newMask(values [][]byte) *mask {
	raw, bare, escaped, percent, plus := newForm(whole), newForm(unquoted), newForm(unescaped), newForm(unpercented), newForm(unplussed)
	for _, value := range values {
		read, _ := unescaped(string(value)) // by the echo of some shells
		for line := range strings.Lines(string(value) + "\n" + string(read)) {
			line = strings.TrimSpace(line)
			if len(line) < minMasked {
				continue
			}
			raw.add(line)
			bare.add(withoutAny(line, quotes+`\`))
			escaped.add(withoutAny(line, quotes))
			percent.add(line)
			plus.add(line)
		}
		for _, line := range base64Lines(value) {
			raw.add(line)
		}
	}
	m := &mask{}
	for _, f := range []*form{raw, bare, escaped, percent, plus} {
		if len(f.needles) > 0 {
			m.forms = append(m.forms, *f)
			m.longest = max(m.longest, mostQuoted*f.longest)
		}
	}
	return m
}

const quotes = `'"`

func withoutAny(text, chars string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && strings.ContainsRune(chars, r) {
			return -1
		}
		return r
	}, text)
}

// base64Lines returns the base64 of a value, with and without the newline that echo adds, by
// both alphabets, whole and as lines of 76 and 64 characters, which is how programs wrap it.
func base64Lines(value []byte) (lines []string) {
	bare := bytes.TrimSpace(value)
	if len(bare) < minMasked {
		return nil
	}
	for _, v := range [][]byte{value, bare, append(slices.Clone(bare), '\n')} {
		for _, alphabet := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			text := strings.TrimRight(alphabet.EncodeToString(v), "=")
			lines = append(lines, text)
			for _, width := range []int{76, 64} {
				for line := range slices.Chunk([]byte(text), width) {
					lines = append(lines, string(line))
				}
			}
		}
	}
	return lines
}

// hide returns text without the secrets.
func (m *mask) hide(text string) string {
	var found []span
	for _, f := range m.forms {
		found = append(found, f.find(text)...)
	}
	if len(found) == 0 {
		return text
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	at := 0 // what is before it is written or hidden
	for _, s := range found {
		if s.from >= at {
			out.WriteString(text[at:s.from])
			out.WriteString("***")
		}
		at = max(at, s.to)
	}
	out.WriteString(text[at:])
	return out.String()
}

// A span is a part of a text, from and to are offsets of bytes.
type span struct{ from, to int }

// A form is one way to read a text, and what is looked for in that reading.
type form struct {
	read    func(text string) (plain []byte, at []span) // at is where each byte of plain stands in text
	needles map[string][]string                         // by their first bytes, the longest first
	longest int
}

func newForm(read func(string) ([]byte, []span)) *form {
	return &form{read: read, needles: map[string][]string{}}
}

func (f *form) add(needle string) {
	if len(needle) < minMasked {
		return
	}
	start := needle[:minMasked]
	if slices.Contains(f.needles[start], needle) {
		return
	}
	f.needles[start] = append(f.needles[start], needle)
	slices.SortFunc(f.needles[start], func(a, b string) int { return len(b) - len(a) })
	f.longest = max(f.longest, len(needle))
}

func (f *form) find(text string) (found []span) {
	plain, at := f.read(text)
	for i := 0; i+minMasked <= len(plain); i++ {
		for _, needle := range f.needles[string(plain[i:i+minMasked])] {
			if end := i + len(needle); end <= len(plain) && string(plain[i:end]) == needle {
				found = append(found, span{at[i].from, at[end-1].to})
				i = end - 1
				break
			}
		}
	}
	return found
}

// reading reads a text token by token: token returns what the one at an offset stands for,
// and how many bytes it takes. A text without any of the signs has no reading of its own.
func reading(text, signs string, token func(rest string) (plain string, size int)) (plain []byte, at []span) {
	if signs != "" && !strings.ContainsAny(text, signs) {
		return nil, nil
	}
	for i := 0; i < len(text); {
		read, size := token(text[i:])
		for range len(read) {
			at = append(at, span{i, i + size})
		}
		plain = append(plain, read...)
		i += size
	}
	return plain, at
}

func whole(text string) ([]byte, []span) {
	return reading(text, "", func(rest string) (string, int) { return rest[:1], 1 })
}

func unquoted(text string) ([]byte, []span) {
	return reading(text, quotes+`\`, func(rest string) (string, int) {
		if strings.ContainsRune(quotes+`\`, rune(rest[0])) {
			return "", 1
		}
		return rest[:1], 1
	})
}

func unescaped(text string) ([]byte, []span) {
	return reading(text, `\`, func(rest string) (string, int) {
		switch rest[0] {
		case '\'', '"':
			return "", 1
		case '\\':
			plain, size := escape(rest)
			return withoutAny(plain, quotes), size
		}
		return rest[:1], 1
	})
}

// escape reads an escape of C, which begins with a backslash: bash's \E and \e, and up to three
// octal digits, included.
func escape(rest string) (plain string, size int) {
	if len(rest) > 1 && (rest[1] == 'E' || rest[1] == 'e') {
		return "\x1b", 2
	}
	digits := 1
	for digits < min(len(rest), 4) && rest[digits] >= '0' && rest[digits] <= '7' {
		digits++
	}
	if code, err := strconv.ParseUint(rest[1:digits], 8, 8); err == nil {
		return string([]byte{byte(code)}), digits
	}
	for _, quote := range []byte(quotes) { // of which UnquoteChar wants to know one
		if r, multibyte, tail, err := strconv.UnquoteChar(rest, quote); err == nil {
			if multibyte {
				return string(r), len(rest) - len(tail)
			}
			return string([]byte{byte(r)}), len(rest) - len(tail)
		}
	}
	return rest[min(1, len(rest)-1):min(2, len(rest))], min(2, len(rest)) // of what it does not know, what follows
}

func unpercented(text string) ([]byte, []span) { return reading(text, "%", percentToken) }

func unplussed(text string) ([]byte, []span) {
	return reading(text, "+", func(rest string) (string, int) {
		if rest[0] == '+' {
			return " ", 1
		}
		return percentToken(rest)
	})
}

func percentToken(rest string) (string, int) {
	if len(rest) >= 3 && rest[0] == '%' {
		if plain, err := url.PathUnescape(rest[:3]); err == nil {
			return plain, 3
		}
	}
	return rest[:1], 1
}
