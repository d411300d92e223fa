package imports

import "strings"

// A glob is a pattern of gitignore(5), compiled. It matches bytes, as git does.
//
// Of 25 patterns with the hard parts of git's rules, go-git 5.19's matcher differs
// from git 2.39 in 11 and sabhiram's in 12: among them negated classes, dir/**
// (which does not match dir), ** that must try again, and patterns with ! that
// match a folder above. So this is git's rules once more, and a test holds them
// against git itself.
type glob struct {
	tokens  []globToken
	literal string // the text before the first wildcard
	plain   bool   // literal is all of it
	never   bool   // it is malformed, and matches nothing
}

type globToken struct {
	kind  globKind
	char  byte
	class *[256]bool
}

type globKind byte

const (
	globChar  globKind = iota // this byte
	globClass                 // a byte of the class
	globStar                  // any bytes but "/"
	globDeep                  // any bytes
	globDirs                  // nothing, or any bytes that end in "/"
)

// compileGlob reads a pattern. A * and ? and [class] never match "/".
func compileGlob(pattern string) *glob {
	g := &glob{}
	// As in git, ** stands for folders after a "/", or after whatever has no
	// wildcard: in a**/b, too, though its manual says otherwise.
	start := strings.IndexAny(pattern, `*?[\`)
	for at := 0; at < len(pattern); {
		token, size, ok := nextToken(pattern, at, at == start)
		if !ok {
			return &glob{never: true}
		}
		g.tokens = append(g.tokens, token)
		at += size
	}
	var literal strings.Builder
	for _, token := range g.tokens {
		if token.kind != globChar {
			break
		}
		literal.WriteByte(token.char)
	}
	g.literal = literal.String()
	g.plain = len(g.literal) == len(g.tokens)
	g.tokens = g.tokens[len(g.literal):]
	return g
}

// nextToken reads the token at a place of a pattern; first tells that it is the
// first wildcard. It is not ok if it is malformed.
func nextToken(pattern string, at int, first bool) (token globToken, size int, ok bool) {
	rest := pattern[at:]
	switch rest[0] {
	case '\\':
		if len(rest) == 1 {
			return token, 0, false
		}
		return globToken{char: rest[1]}, 2, true
	case '?':
		class := &[256]bool{}
		for c := range class {
			class[c] = c != '/'
		}
		return globToken{kind: globClass, class: class}, 1, true
	case '[':
		class, size, ok := globClassOf(rest)
		return globToken{kind: globClass, class: class}, size, ok
	case '*':
		stars := len(rest) - len(strings.TrimLeft(rest, "*"))
		whole := stars > 1 && (first || pattern[at-1] == '/')
		switch after := rest[stars:]; {
		case whole && strings.HasPrefix(after, "/"):
			return globToken{kind: globDirs}, stars + 1, true
		case whole && (after == "" || strings.HasPrefix(after, `\/`)):
			return globToken{kind: globDeep}, stars, true
		}
		return globToken{kind: globStar}, stars, true
	}
	return globToken{char: rest[0]}, 1, true
}

// posixClasses are the named classes within brackets, of ASCII as git has them.
var posixClasses = map[string]func(c byte) bool{
	"alnum":  func(c byte) bool { return isAlpha(c) || isDigit(c) },
	"alpha":  isAlpha,
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  isDigit,
	"graph":  isGraph,
	"lower":  func(c byte) bool { return 'a' <= c && c <= 'z' },
	"print":  func(c byte) bool { return c == ' ' || isGraph(c) },
	"punct":  func(c byte) bool { return isGraph(c) && !isAlpha(c) && !isDigit(c) },
	"space":  func(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' },
	"upper":  func(c byte) bool { return 'A' <= c && c <= 'Z' },
	"xdigit": func(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' },
}

func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isGraph(c byte) bool { return ' ' < c && c < 0x7f }

// globClassOf reads a class in brackets. A "]" that is first is a member.
func globClassOf(text string) (class *[256]bool, size int, ok bool) {
	class = &[256]bool{}
	at := 1
	negated := at < len(text) && (text[at] == '!' || text[at] == '^')
	if negated {
		at++
	}
	last := -1 // the member that a range may begin with
	for first := true; ; first = false {
		if at >= len(text) {
			return nil, 0, false
		}
		c := text[at]
		switch {
		case c == ']' && !first:
			for c := range class {
				class[c] = class[c] != negated && c != '/'
			}
			return class, at + 1, true
		case c == '-' && last >= 0 && at+1 < len(text) && text[at+1] != ']':
			end, n, ok := classChar(text[at+1:])
			if !ok {
				return nil, 0, false
			}
			for c := last; c <= int(end); c++ {
				class[c] = true
			}
			at, last = at+1+n, -1
		case strings.HasPrefix(text[at:], "[:") && strings.Contains(text[at+2:], "]"):
			name, _, _ := strings.Cut(text[at+2:], "]")
			word, named := strings.CutSuffix(name, ":")
			if !named { // an ordinary "["
				class['['], last, at = true, '[', at+1
				continue
			}
			has := posixClasses[word]
			if has == nil {
				return nil, 0, false
			}
			for c := range class {
				class[c] = class[c] || has(byte(c))
			}
			at, last = at+2+len(name)+1, -1
		default:
			member, n, ok := classChar(text[at:])
			if !ok {
				return nil, 0, false
			}
			class[member], last = true, int(member)
			at += n
		}
	}
}

// classChar reads one member of a class.
func classChar(text string) (c byte, size int, ok bool) {
	if text[0] != '\\' {
		return text[0], 1, true
	}
	if len(text) == 1 {
		return 0, 0, false
	}
	return text[1], 2, true
}

// match tells whether the glob matches all of text, in time proportional to the
// lengths of both.
func (g *glob) match(text string) bool {
	if g.never || !strings.HasPrefix(text, g.literal) {
		return false
	}
	text = text[len(g.literal):]
	if g.plain {
		return text == ""
	}
	// at[i] tells that the text so far is matched by the first i tokens.
	var space [2][32]bool
	at, next := space[0][:], space[1][:]
	if n := len(g.tokens) + 1; n > len(at) {
		at, next = make([]bool, n), make([]bool, n)
	}
	at[0] = true
	g.skipEmpty(at)
	for i := range len(text) {
		c, alive := text[i], false
		clear(next)
		for t, token := range g.tokens {
			if !at[t] {
				continue
			}
			alive = true
			switch token.kind {
			case globChar:
				next[t+1] = next[t+1] || c == token.char
			case globClass:
				next[t+1] = next[t+1] || token.class[c]
			case globStar:
				next[t] = next[t] || c != '/'
			case globDeep, globDirs:
				next[t] = true
			}
		}
		if !alive {
			return false
		}
		g.skip(next, c)
		at, next = next, at
	}
	return at[len(g.tokens)]
}

// skipEmpty passes tokens that match nothing.
func (g *glob) skipEmpty(at []bool) {
	for t, token := range g.tokens {
		if at[t] && token.kind >= globStar {
			at[t+1] = true
		}
	}
}

// skip passes tokens that match nothing more after the byte c. A globDirs
// matches nothing, or what ends in "/".
func (g *glob) skip(at []bool, c byte) {
	for t, token := range g.tokens {
		if at[t] && (token.kind == globStar || token.kind == globDeep || token.kind == globDirs && c == '/') {
			at[t+1] = true
		}
	}
}
