package dockerfile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// The text of a word is what the stackerfile says of it: as it is, but with a placeholder,
// ${{ARG_NAME:default}}, where the Dockerfile has a variable that is an ARG. Its value is
// what that is by default: see value. Whatever is given for the ARGs, a text becomes what
// BuildKit makes of the word with these values.

// A variable is one that the words of a Dockerfile may use.
type variable struct {
	text string
	set  bool // otherwise it is an ARG without a default
	arg  bool // the image's environment does not have it
}

type variables map[string]variable

// placeholder returns a placeholder with a default, which is a text.
func placeholder(name, text string) string { return "${{" + name + ":" + text + "}}" }

// literal returns the text of what is no placeholder, whatever it looks like.
func literal(s string) string { return strings.ReplaceAll(s, "${{", "${{DOLLAR:$}}{{") }

// cutPlaceholder splits a text that is one placeholder and nothing else.
func cutPlaceholder(text string) (name, def string, ok bool) {
	end := placeholderEnd(text)
	if end != len(text) || end == 0 {
		return "", "", false
	}
	name, def, _ = strings.Cut(text[3:end-2], ":")
	return name, def, true
}

// placeholderEnd is the size of the placeholder that a text begins with, or 0.
func placeholderEnd(text string) int {
	if !strings.HasPrefix(text, "${{") {
		return 0
	}
	for i := 3; i < len(text); {
		switch {
		case strings.HasPrefix(text[i:], "}}"):
			return i + 2
		case strings.HasPrefix(text[i:], "${{"):
			inner := placeholderEnd(text[i:])
			if inner == 0 {
				return 0
			}
			i += inner
		default:
			i++
		}
	}
	return 0
}

// eachPart calls do with each placeholder of a text, and with what is between them.
func eachPart(text string, do func(part string, isPlaceholder bool)) {
	for text != "" {
		i := strings.Index(text, "${{")
		if i < 0 {
			i = len(text)
		}
		if i > 0 {
			do(text[:i], false)
		}
		text = text[i:]
		if end := placeholderEnd(text); end > 0 {
			do(text[:end], true)
			text = text[end:]
		} else if text != "" {
			do(text[:3], false)
			text = text[3:]
		}
	}
}

// value returns what a text is when the build gives no values.
func value(text string) string {
	var out strings.Builder
	eachPart(text, func(part string, isPlaceholder bool) {
		if isPlaceholder {
			_, part, _ = cutPlaceholder(part)
			part = value(part)
		}
		out.WriteString(part)
	})
	return out.String()
}

// withoutPlaceholders returns what of a text is between its placeholders.
func withoutPlaceholders(text string) string {
	var out strings.Builder
	eachPart(text, func(part string, isPlaceholder bool) {
		if !isPlaceholder {
			out.WriteString(part)
		}
	})
	return out.String()
}

// A resolver turns words of a Dockerfile into texts.
type resolver struct {
	escape rune
	lex    *shell.Lex
	fixed  []string // words whose text is their value, though they use ARGs
}

func newResolver(escape rune) *resolver { return &resolver{escape: escape, lex: shell.NewLex(escape)} }

// takeFixed returns and forgets the words that were fixed.
func (r *resolver) takeFixed() []string {
	fixed := r.fixed
	r.fixed = nil
	return fixed
}

// A process is one of the ways in which BuildKit's lexer reads a word.
type process func(word string, env shell.EnvGetter) ([]string, error)

// word returns the text of a word.
func (r *resolver) word(word string, v variables) (string, error) {
	return first(r.resolve(word, v, func(word string, env shell.EnvGetter) ([]string, error) {
		result, _, err := r.lex.ProcessWord(word, env)
		return []string{result}, err
	}))
}

// split returns the texts of the words that a text is split into after its variables are
// replaced.
func (r *resolver) split(text string, v variables) ([]string, error) {
	return r.resolve(text, v, r.lex.ProcessWords)
}

// content returns the text of a heredoc, whose quotes stay.
func (r *resolver) content(content string, v variables) (string, error) {
	return first(r.resolve(content, v, func(word string, env shell.EnvGetter) ([]string, error) {
		lex := shell.NewLex('\\')
		lex.SkipProcessQuotes = true
		result, _, err := lex.ProcessWord(word, env)
		return []string{result}, err
	}))
}

func first(texts []string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return texts[0], nil
}

// modified finds variables of which not just the value is asked for.
var modified = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:?[^}A-Za-z0-9_])`)

// required finds variables that must be given: ${NAME:?message}.
var required = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*):?\?[^}]*\}`)

// defaulted finds variables that have a plain default where they stand: ${NAME:-default}.
var defaulted = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:?)-([^}$'"\\` + "`" + `]*)\}`)

// resolve runs BuildKit's lexer twice: with the values of variables, and with marks in the
// place of those that are placeholders. Where the marks, replaced by values, do not come to
// the same, the lexer did something with them that no placeholder can do.
func (r *resolver) resolve(word string, v variables, lex process) ([]string, error) {
	original := word
	word, v = withDefaults(word, v)
	values, err := lex(word, getter{v, func(x variable) (string, bool) { return value(x.text), x.set }})
	if err != nil && required.MatchString(word) {
		return r.require(word, v, lex)
	}
	if err != nil {
		return nil, err
	}
	marks := map[string]string{}
	marked, err := lex(word, getter{v, func(x variable) (string, bool) {
		if !x.open() {
			return x.text, true
		}
		mark := string(markOpen) + string(rune(markFirst+len(marks))) + string(markClose)
		marks[mark] = x.text
		return mark, true
	}})
	fixed := err != nil || len(marked) != len(values) || strings.ContainsRune(word, markOpen) || changesOpen(word, v)
	texts := make([]string, len(values))
	for i := range values {
		if !fixed {
			texts[i] = unmark(marked[i], marks)
			fixed = value(texts[i]) != values[i]
		}
	}
	if !fixed {
		return texts, nil
	}
	if len(marks) > 0 {
		r.fixed = append(r.fixed, original)
	}
	for i := range values {
		texts[i] = literal(values[i])
	}
	return texts, nil
}

// open reports whether the build may give the variable another value.
func (x variable) open() bool { return !x.set || withoutPlaceholders(x.text) != x.text }

// changesOpen reports whether a word may do more with a variable that is open than take its
// value.
func changesOpen(word string, v variables) bool {
	for _, m := range modified.FindAllStringSubmatch(word, -1) {
		x, known := v[m[1]]
		plain := strings.HasSuffix(m[2], "-") || strings.HasSuffix(m[2], "?")
		if known && x.open() && (!plain || value(x.text) == "") {
			return true
		}
	}
	return false
}

// withDefaults moves the defaults of variables that have no value into their placeholders.
func withDefaults(word string, v variables) (string, variables) {
	if strings.ContainsAny(word, "'\\`") {
		return word, v // it may be no variable
	}
	moved := maps.Clone(v)
	n := 0
	word = defaulted.ReplaceAllStringFunc(word, func(use string) string {
		m := defaulted.FindStringSubmatch(use)
		name, def, ok := cutPlaceholder(v[m[1]].text)
		if !ok || def != "" || m[2] == "" && v[m[1]].set {
			return use
		}
		n++
		own := fmt.Sprintf("%s_default_%d", m[1], n)
		moved[own] = variable{text: placeholder(name, literal(m[3])), set: true, arg: true}
		return "${" + own + "}"
	})
	return word, moved
}

// require resolves a word that cannot do without a variable: the placeholder has no
// default, so the build cannot, either.
func (r *resolver) require(word string, v variables, lex process) ([]string, error) {
	given := maps.Clone(v)
	word = required.ReplaceAllStringFunc(word, func(use string) string {
		name := required.FindStringSubmatch(use)[1]
		if x := given[name]; value(x.text) == "" {
			given[name] = variable{text: "${{ARG_" + name + "}}", set: true, arg: true}
		}
		return "${" + name + "}"
	})
	return r.resolve(word, given, lex)
}

// Marks are of the private use area of Unicode.
const (
	markOpen  = '\uE000'
	markClose = '\uE001'
	markFirst = 0xE010
)

func unmark(s string, marks map[string]string) string {
	var out strings.Builder
	for s != "" {
		i := strings.IndexRune(s, markOpen)
		size := len(string(markOpen)) * 3
		if i < 0 || len(s) < i+size || marks[s[i:i+size]] == "" {
			break
		}
		out.WriteString(literal(s[:i]))
		out.WriteString(marks[s[i:i+size]])
		s = s[i+size:]
	}
	out.WriteString(literal(s))
	return out.String()
}

// A getter gives BuildKit's lexer variables.
type getter struct {
	variables
	get func(variable) (string, bool)
}

// Get is a method of shell.EnvGetter.
func (g getter) Get(name string) (string, bool) {
	x, ok := g.variables[name]
	if !ok {
		return "", false
	}
	return g.get(x)
}

// Keys is a method of shell.EnvGetter.
func (g getter) Keys() []string { return slices.Sorted(maps.Keys(g.variables)) }
