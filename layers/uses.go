package layers

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A uses collects what the files of a build do with the names of substitutions.
type uses struct {
	placeholders map[string]bool // names that stand in a placeholder
	shell        []shellUse
}

// A shellUse is $NAME or ${NAME} of a substitution that has a value: a variable of the
// shell, or a placeholder in the wrong spelling.
type shellUse struct {
	pos                   Position
	text, name, withColon string
}

// shellSpelling finds what a shell would expand: $NAME, ${NAME} and, because
// stacker once documented it as its own, ${NAME:…}.
var shellSpelling = regexp.MustCompile(`\$([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)(:[^}]*)?\}`)

// add notes the uses in a file.
func (u *uses) add(e *expanded, file string, subs []substitution) {
	if u.placeholders == nil {
		u.placeholders = map[string]bool{}
	}
	maps.Copy(u.placeholders, e.used)
	known := map[string]bool{}
	for _, s := range subs {
		known[s.name] = true
	}
	group := func(m []int, n int) string {
		if m[2*n] < 0 {
			return ""
		}
		return e.original[m[2*n]:m[2*n+1]]
	}
	for _, m := range shellSpelling.FindAllStringSubmatchIndex(e.original, -1) {
		if name := group(m, 1) + group(m, 2); known[name] {
			line, column := e.originalPosition(m[0])
			u.shell = append(u.shell, shellUse{Position{file, line, column}, group(m, 0), name, group(m, 3)})
		}
	}
}

// check refuses $NAME where no file has a placeholder of that name: it would be left for
// the shell, which is hardly what was meant. Of a value that was given and that nothing
// uses at all it warns.
func (u *uses) check(subs []substitution, errs, warnings *Errors) {
	refused := map[string]bool{}
	for _, s := range u.shell {
		if u.placeholders[s.name] {
			continue
		}
		refused[s.name] = true
		errs.add(s.pos, "", `unsupported placeholder %s, although a substitution for %s is given: write %s to use it, or "${%s-}" for the shell's own variable`,
			quote(s.text), s.name, quote(opening+s.name+s.withColon+closing), s.name)
	}
	for _, s := range subs {
		if s.given && !u.placeholders[s.name] && !refused[s.name] {
			warnings.add(Position{}, "", "nothing uses the substitution %s%s", quote(s.name), u.suggestion(s.name))
		}
	}
}

// suggestion is what ends a message about a substitution that nothing uses.
func (u *uses) suggestion(name string) string {
	names := slices.Sorted(maps.Keys(u.placeholders))
	for _, known := range names {
		if strings.EqualFold(known, name) || strings.HasSuffix(known, "_"+name) {
			return ": did you mean " + quote(known) + "?"
		}
	}
	return DidYouMean(name, names)
}
