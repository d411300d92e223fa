package imports

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Credentials are user names and passwords for http(s) servers.
type Credentials struct {
	auths  map[string]login // by host, host:port, or one of them with a path
	netrc  map[string]login // by host
	others *login           // netrc's default
}

type login struct{ user, password string }

// LoadCredentials reads what is there of a container engine's auth files, of
// which an earlier one wins, and of a netrc file ("" for none). No error quotes
// what is in a file.
func LoadCredentials(authFiles []string, netrc string) (*Credentials, error) {
	c := &Credentials{auths: map[string]login{}, netrc: map[string]login{}}
	for _, path := range authFiles {
		b, err := readIfThere(path)
		if err != nil {
			return nil, err
		}
		auths, err := parseAuths(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for where, l := range auths {
			if _, has := c.auths[where]; !has {
				c.auths[where] = l
			}
		}
	}
	b, err := readIfThere(netrc)
	if err != nil {
		return nil, err
	}
	c.netrc, c.others = parseNetrc(string(b))
	return c, nil
}

// DefaultCredentials reads the files that podman, docker and curl read for the
// user whose environment getenv tells: REGISTRY_AUTH_FILE, or otherwise
// containers/auth.json below XDG_RUNTIME_DIR and XDG_CONFIG_HOME, and
// config.json in DOCKER_CONFIG; and NETRC, or otherwise .netrc in HOME.
func DefaultCredentials(getenv func(string) string) (*Credentials, error) {
	or := func(name, fallback string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return fallback
	}
	home := getenv("HOME")
	var auths []string
	if f := getenv("REGISTRY_AUTH_FILE"); f != "" {
		auths = append(auths, f)
	} else {
		if run := getenv("XDG_RUNTIME_DIR"); run != "" {
			auths = append(auths, filepath.Join(run, "containers/auth.json"))
		}
		auths = append(auths,
			filepath.Join(or("XDG_CONFIG_HOME", filepath.Join(home, ".config")), "containers/auth.json"),
			filepath.Join(or("DOCKER_CONFIG", filepath.Join(home, ".docker")), "config.json"))
	}
	return LoadCredentials(auths, or("NETRC", filepath.Join(home, ".netrc")))
}

func readIfThere(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return b, err
}

// parseAuths reads a containers-auth.json(5).
func parseAuths(b []byte) (map[string]login, error) {
	auths := map[string]login{}
	if len(b) == 0 {
		return auths, nil
	}
	var file struct {
		Auths map[string]struct{ Auth, Username, Password string }
	}
	if json.Unmarshal(b, &file) != nil {
		return nil, errors.New("not a JSON file with credentials (auths)")
	}
	for where, a := range file.Auths {
		l := login{a.Username, a.Password}
		if a.Auth != "" {
			pair, err := base64.StdEncoding.DecodeString(a.Auth)
			user, password, ok := strings.Cut(string(pair), ":")
			if err != nil || !ok {
				continue // another engine's: not ours to judge
			}
			l = login{user, strings.TrimRight(password, "\x00")}
		}
		if l != (login{}) {
			auths[authKey(where)] = l
		}
	}
	return auths, nil
}

// authKey makes docker's keys, which may be URLs, podman's: host and path.
func authKey(where string) string {
	_, rest, ok := strings.Cut(where, "://")
	if !ok {
		rest = where
	}
	host, path, _ := strings.Cut(strings.TrimRight(rest, "/"), "/")
	return strings.TrimRight(strings.ToLower(host)+"/"+path, "/")
}

// parseNetrc reads what netrc(5) and curl describe: machine, default, login,
// password; account and macro definitions are passed over.
func parseNetrc(text string) (machines map[string]login, others *login) {
	machines = map[string]login{}
	var name string
	var at *login
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
			name, at = "", &login{}
			continue
		}
		if len(words) == 0 {
			break
		}
		value := words[0]
		switch word {
		case "machine":
			done()
			name, at = strings.ToLower(value), &login{}
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

// netrcWords splits a netrc file: words may be in double quotes, lines that
// start with # are comments, a macro definition ends at an empty line.
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

// netrcWord takes the first word off a line without spaces around it.
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

// find returns the login for a URL: the one in it, the auth entry with the
// longest path that it lies under, or netrc's for its host.
func (c *Credentials) find(u *url.URL) (login, bool) {
	if u.User != nil {
		password, _ := u.User.Password()
		return login{u.User.Username(), password}, true
	}
	if c == nil {
		return login{}, false
	}
	for _, host := range []string{strings.ToLower(u.Host), strings.ToLower(u.Hostname())} {
		for where := host + strings.TrimRight(u.EscapedPath(), "/"); ; {
			if l, ok := c.auths[where]; ok {
				return l, true
			}
			cut := strings.LastIndexByte(where, '/')
			if cut < 0 {
				break
			}
			where = where[:cut]
		}
	}
	if l, ok := c.netrc[strings.ToLower(u.Hostname())]; ok {
		return l, true
	}
	if c.others != nil {
		return *c.others, true
	}
	return login{}, false
}

const hidden = "xxxxx"

var (
	userinfo    = regexp.MustCompile(`(://)[^/?#\s]*@`)
	secretParam = regexp.MustCompile(`(?i)([?&][^=&#]*(?:token|secret|passw|signature|credential|api_?key|access_?key|\bsig)[^=&#]*=)[^&#\s]*`)
)

// Redact returns a URL, or text with URLs in it, without user names, passwords,
// and the values of query parameters that are named like secrets.
func Redact(s string) string {
	return secretParam.ReplaceAllString(userinfo.ReplaceAllString(s, "${1}"+hidden+"@"), "${1}"+hidden)
}
