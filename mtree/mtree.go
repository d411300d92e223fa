// Package mtree has the words of manifests: text about files that mtree(5) describes and
// go-mtree reads. Keywords are go-mtree's, names are encoded by its vis(3).
//
// go-mtree's own writer is not used: it adds host, user and date, which no two manifests have in
// common, and does not escape what ends a line. The rules here are chosen so that nothing in a
// tree can pretend to be something else:
//
//   - No comments, no /set.
//   - Keywords are sorted, so that no line ends in a link target, whose last backslash would
//     continue the line.
//   - "=" in the name of an extended attribute is encoded, too.
//   - A line is continued after foldAt bytes, since go-mtree reads no longer lines than 64 KiB.
package mtree

import (
	"bytes"
	"encoding/base64"
	"strings"

	gomtree "github.com/vbatts/go-mtree"
	"github.com/vbatts/go-mtree/pkg/govis"
)

// Head is the first line of a manifest.
const Head = "#mtree v2.0\n"

// Keywords, in the order in which they stand on a line.
const (
	Device gomtree.Keyword = "device" // linux,MAJOR,MINOR
	GID    gomtree.Keyword = "gid"
	Link   gomtree.Keyword = "link" // the target, encoded
	Mode   gomtree.Keyword = "mode" // octal, with a leading 0
	SHA256 gomtree.Keyword = "sha256digest"
	Size   gomtree.Keyword = "size"
	Time   gomtree.Keyword = "time" // SECONDS.NANOSECONDS
	Type   gomtree.Keyword = "type"
	UID    gomtree.Keyword = "uid"
	Xattr  gomtree.Keyword = "xattr" // xattr.NAME, the value in base64
)

// foldAt is how long a line may be before it is continued on the next one.
const foldAt = 32 << 10

// AppendName appends a path or one name of it as vis(3) has it.
func AppendName(b []byte, s string) []byte {
	if plain(s) {
		return append(b, s...)
	}
	text, _ := govis.Vis(s, gomtree.DefaultVisFlags) // fails for other flags only
	return append(b, text...)
}

// AppendXattr appends the keyword and the value of an extended attribute.
func AppendXattr(b []byte, name, value string) []byte {
	b = append(append(b, Xattr...), '.')
	start := len(b)
	b = AppendName(b, name)
	if encoded := b[start:]; bytes.IndexByte(encoded, '=') >= 0 {
		b = append(b[:start], bytes.ReplaceAll(encoded, []byte("="), []byte(`\075`))...)
	}
	return base64.StdEncoding.AppendEncode(append(b, '='), []byte(value))
}

// Name is the inverse of AppendName.
func Name(s string) (string, error) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, nil
	}
	return govis.Unvis(s, gomtree.DefaultVisFlags)
}

// plain reports whether vis(3) leaves s as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '*' || c == '?' || c == '[' || c == '#' {
			return false
		}
	}
	return true
}

// Fold breaks the line that starts at b[start:] after every foldAt bytes.
func Fold(b []byte, start int) []byte {
	if len(b)-start <= foldAt {
		return b
	}
	line := bytes.Clone(b[start:])
	b = b[:start]
	for len(line) > foldAt {
		b = append(b, line[:foldAt]...)
		b = append(b, '\\', '\n')
		line = line[foldAt:]
	}
	return append(b, line...)
}
