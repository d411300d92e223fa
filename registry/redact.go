package registry

import "regexp"

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
