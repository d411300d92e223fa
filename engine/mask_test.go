package engine

import (
	"encoding/base64"
	"net/url"
	"os/exec"
	"strings"
	"testing"
)

// hardValues are secrets that shells quote, each in another way.
var hardValues = []string{
	"Tr0ub4dor'correct horse", "it''s''quoted'twice", `back\slash\n and "double"`, "dollar$HOME`id`$(id)", "tab\there bell\a esc\x1b[31mred",
	"first line\nsecond 'line'\n\tthird line", "café über naïve", "not utf-8 \xff\xfe bytes", "!history !! *globbing? [a-z] {a,b} ~rooted #no", `\\double\\\\back`,
	"percent%41and+plus &x=y;z", "trailing backslash\\", "-n looks like a flag", "'starts and ends'", "=equals= %s %d",
}

// words are what is recognizable of a value: runs of letters and digits.
func words(value string) (words []string) {
	for _, word := range strings.FieldsFunc(value, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) {
		if len(word) >= minMasked {
			words = append(words, word)
		}
	}
	return words
}

// Real shells show a value as they quote it; nothing of it is left.
func TestMaskHidesWhatShellsMake(t *testing.T) {
	scripts := []string{
		`set -x; : "$P"; : x"$P"y; Q=$P; export Q; case $P in x) ;; esac; [ "$P" = x ]; for i in "$P"; do :; done; set +x`, `echo "$P"`,
		`printf '%s\n' "$P"`, `printf '%b\n' "$P"`, `env | grep -a -A3 '^P='`, `printf '%s' "$P" | base64`, `printf '%s\n' "$P" | base64 -w0`, `printf '%s' "$P" | base64 | tr '+/' '-_' | tr -d =`,
		`set`, `export -p`,
	}
	bash := []string{`printf '%q\n' "$P"`, `echo "${P@Q}"`, `declare -p P`, `set -x; [[ $P == x ]]; A=("$P" "$P"); set +x`}
	for _, value := range hardValues {
		m := newMask([][]byte{[]byte(value)})
		for _, shell := range []string{"dash", "bash", "busybox", "mksh", "zsh"} {
			path, err := exec.LookPath(shell)
			if err != nil {
				continue
			}
			args := []string{}
			if shell == "busybox" {
				args = []string{"sh"}
			}
			all := scripts
			if shell == "bash" {
				all = append(all, bash...)
			}
			for _, locale := range []string{"C", "C.UTF-8"} {
				cmd := exec.Command(path, append(args, "-c", strings.Join(all, "\n"))...)
				cmd.Env = []string{"PATH=/usr/bin:/bin", "P=" + value, "LC_ALL=" + locale}
				out, _ := cmd.CombinedOutput() // a test in the script may be false
				if len(out) < len(all)*len(value) {
					t.Errorf("%s printed only %q", shell, out)
				}
				checkHidden(t, m, value, shell, string(out))
			}
		}
		for name, text := range map[string]string{
			"query": url.QueryEscape(value), "path": url.PathEscape(value), "json": jsonText(t, strings.ToValidUTF8(value, "")),
			"lower": strings.ToLower(url.QueryEscape("\xff")) + url.QueryEscape(value), "base64": base64.RawURLEncoding.EncodeToString([]byte(value)),
		} {
			if name == "json" && strings.Contains(value, "\xff") {
				continue // JSON cannot hold it
			}
			checkHidden(t, m, value, name, text)
		}
	}
}

// checkHidden passes text through the mask line by line, as what a step writes.
func checkHidden(t *testing.T, m *mask, value, how, text string) {
	t.Helper()
	var hidden strings.Builder
	out := &lines{hidden: m, emit: func(line string) { hidden.WriteString(line + "\n") }}
	_, _ = out.Write([]byte(text))
	out.flush()
	forms := append(words(value), strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(value)), "=")[:8])
	for _, word := range forms {
		if strings.Contains(hidden.String(), word) && !strings.Contains(how, word) {
			t.Errorf("%q by %s: %q is left of %q: %q", value, how, word, text, hidden.String())
			return
		}
	}
}

func jsonText(t *testing.T, value string) string {
	t.Helper()
	cmd := exec.Command("jq", "-R", "-s", "-a", ".")
	cmd.Stdin = strings.NewReader(value)
	out, err := cmd.Output()
	if err != nil {
		t.Skip("no jq")
	}
	return string(out)
}

// What is no secret stays as it is, also beside one.
func TestMaskKeepsTheRest(t *testing.T) {
	m := newMask([][]byte{[]byte("pass'word"), []byte("pass"), []byte("ab"), []byte("word word")})
	for text, want := range map[string]string{
		"":                                   "",
		"+ echo 'a b' \"c\" \\d %41 e+f":     "+ echo 'a b' \"c\" \\d %41 e+f",
		"x pass'word y":                      "x *** y",
		`+ echo 'pass'"'"'word' 'it'"'"'s'`:  `+ echo '***' 'it'"'"'s'`,
		"passpass":                           "******",
		"it is ab":                           "it is ab",
		"word%20word, word+word":             "***, ***",
		"caf\xc3\xa9 \xff pa\\163\\163 \\x7": "caf\xc3\xa9 \xff *** \\x7",
	} {
		if got := m.hide(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	if got := newMask(nil).hide("as it is"); got != "as it is" {
		t.Error(got)
	}
}

// FuzzMask: a line of a secret is hidden wherever it stands, and nothing panics.
func FuzzMask(f *testing.F) {
	for _, value := range hardValues {
		f.Add("before ", value, " after")
	}
	f.Add(`\`, "pass", `\x`)
	f.Add("%", "pass", "%4")
	f.Fuzz(func(t *testing.T, before, value, after string) {
		m := newMask([][]byte{[]byte(value)})
		hidden := m.hide(before + value + after)
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); len(line) >= minMasked && !strings.Contains(before, line) && !strings.Contains(after, line) && strings.Contains(hidden, line) && line != strings.Repeat("*", len(line)) {
				t.Errorf("%q is in %q", line, hidden)
			}
		}
	})
}
