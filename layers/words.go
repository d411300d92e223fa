package layers

import (
	"errors"
	"strings"
)

// splitWords splits a command into words as stacker does, by the rules of a POSIX
// shell without its expansions: 'single quotes' keep all, "double quotes" keep all but
// \" and \\, elsewhere a backslash keeps the next character. (google/shlex drops the
// backslash of "\n" and what follows a #, so a command like sh -c "printf 'a\n'"
// would not be the one that stacker's users wrote.)
func splitWords(s string) ([]string, error) {
	words := []string{}
	var word strings.Builder
	inWord, quote, escaped := false, rune(0), false
	for _, r := range s {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case strings.ContainsRune(" \t\r\n", r):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	switch {
	case quote != 0:
		return nil, errors.New("has a quote that is not closed: close it, or write the command as a list")
	case escaped:
		return nil, errors.New("ends in a backslash: remove it, or write the command as a list")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
