package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
)

// netrc returns the login of a host in the netrc file, or the file's default, or nil.
func (c Credentials) netrc(host string) (*url.Userinfo, error) {
	if c.Netrc == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.Netrc)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	machines, others := parseNetrc(string(text))
	if found, ok := machines[strings.ToLower(host)]; ok {
		return url.UserPassword(found.user, found.password), nil
	}
	if others != nil {
		return url.UserPassword(others.user, others.password), nil
	}
	return nil, nil
}

type netrcLogin struct{ user, password string }

// parseNetrc parses a file as netrc(5) and curl describe it: machine, default, login and
// password. It skips accounts and macro definitions, and never fails.
//
// It is ours because jdx/go-netrc 1.0.0 panics on a file that ends after "machine", loses
// logins after a comment line, finds machines in macros, and cuts quoted passwords.
func parseNetrc(text string) (machines map[string]netrcLogin, others *netrcLogin) {
	machines = map[string]netrcLogin{}
	var name string
	var at *netrcLogin
	done := func() {
		if at == nil {
			return
		}
		if name == "" {
			others = at
		} else if _, has := machines[name]; !has {
			machines[name] = *at
		}
		at = nil
	}
	words := netrcWords(text)
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if word == "default" {
			done()
			name, at = "", &netrcLogin{}
			continue
		}
		if len(words) == 0 {
			break
		}
		value := words[0]
		switch word {
		case "machine":
			done()
			name, at = strings.ToLower(value), &netrcLogin{}
			if name == "" {
				at = nil
			}
		case "login":
			if at != nil {
				at.user = value
			}
		case "password":
			if at != nil {
				at.password = value
			}
		case "account":
		default:
			continue
		}
		words = words[1:]
	}
	done()
	return machines, others
}

// netrcWords splits a netrc file into words, which may be in double quotes. It leaves out
// lines that start with # and macro definitions, which end at an empty line.
func netrcWords(text string) (words []string) {
	macro := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if macro || strings.HasPrefix(line, "#") {
			macro = macro && line != ""
			continue
		}
		for line != "" {
			var word string
			word, line = netrcWord(line)
			if word == "macdef" {
				macro = true
				break
			}
			words = append(words, word)
		}
	}
	return words
}

// netrcWord splits the first word off a trimmed, non-empty line.
func netrcWord(line string) (word, rest string) {
	if line[0] != '"' {
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			return line, ""
		}
		return line[:end], strings.TrimLeft(line[end:], " \t")
	}
	var b strings.Builder
	for i := 1; i < len(line); i++ {
		switch {
		case line[i] == '"':
			return b.String(), strings.TrimLeft(line[i+1:], " \t")
		case line[i] == '\\' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
		default:
			b.WriteByte(line[i])
		}
	}
	return b.String(), ""
}
