// Package redact recognizes what is likely to be a secret in texts that leave: annotations,
// records, journals, bundles, messages. What a layer names under `secrets:` is kept out of
// them in another way, by value; this is for what people put elsewhere.
package redact

import (
	"regexp"
	"slices"
	"strings"
)

// hidden stands for what Text takes out.
const hidden = "xxxxx"

// secretWords are parts of the names of variables that hold secrets, and secretParts are
// whole parts, between underscores, of such names.
var (
	secretWords = [...]string{"token", "secret", "passw", "passphrase", "credential", "apikey"}
	secretParts = [...]string{"key", "auth", "pwd", "pat", "cookie", "session"}
)

// Name reports whether a variable of that name is likely to hold a secret.
func Name(name string) bool {
	name = strings.ToLower(name)
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return true
		}
	}
	for part := range strings.SplitSeq(name, "_") {
		if slices.Contains(secretParts[:], part) {
			return true
		}
	}
	return false
}

// Variable reports whether a variable of that name and value is likely to hold a secret.
func Variable(name, value string) bool { return Name(name) || Found(value) }

var (
	userinfo = regexp.MustCompile(`\w*://[^/?#\s]*@`)
	param    = regexp.MustCompile(`(?i)([?&][^=&#]*(?:token|secret|passw|signature|credential|api_?key|access_?key|\bsig)[^=&#]*=)([^&#\s]*)`)

	// credential matches text that is a secret whatever it stands in: a private key, a JSON
	// web token, tokens of well-known services.
	credential = regexp.MustCompile(strings.Join([]string{
		`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)`,
		`\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*`,
		`\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk_live_|npm_|pypi-|dckr_pat_)[\w-]{10,}`,
		`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`,
		`\bAIza[\w-]{35}`,
	}, "|"))
)

// URL returns a URL, or text with URLs in it, without user names, passwords, and the values
// of query parameters that are named like secrets.
func URL(text string) string { return replaceInURLs(text, hide) }

// Text returns a text without all that is likely to be a secret in it.
func Text(text string) string { return Replace(text, hide) }

func hide(string) string { return hidden }

// Found reports whether Replace finds anything in a text.
func Found(text string) bool {
	found := false
	Replace(text, func(secret string) string {
		found = true
		return secret
	})
	return found
}

// Replace returns text with what replace makes of each secret in it: what URL leaves out, and
// what is a secret whatever it stands in.
func Replace(text string, replace func(secret string) string) string {
	return credential.ReplaceAllStringFunc(replaceInURLs(text, replace), replace)
}

func replaceInURLs(text string, replace func(secret string) string) string {
	text = userinfo.ReplaceAllStringFunc(text, func(found string) string {
		scheme, user, _ := strings.Cut(strings.TrimSuffix(found, "@"), "://")
		if scheme == "docker" || user == "" { // what stands before an @ is an image, and after it a digest
			return found
		}
		return scheme + "://" + replace(user) + "@"
	})
	return param.ReplaceAllStringFunc(text, func(found string) string {
		at := strings.IndexByte(found, '=') + 1
		if at == len(found) {
			return found
		}
		return found[:at] + replace(found[at:])
	})
}
