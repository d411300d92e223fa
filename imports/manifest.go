package imports

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// A Type is what an Entry is.
type Type byte

// The types of entries. There are no sockets in a tree.
const (
	File Type = iota + 1
	Dir
	Symlink
	Fifo
	Char
	Block
)

// typeNames are mtree's values of its keyword type.
var typeNames = [...]string{File: "file", Dir: "dir", Symlink: "link", Fifo: "fifo", Char: "char", Block: "block"}

// String returns mtree's name of the type: file, dir, link, fifo, char, block.
func (t Type) String() string { return typeNames[t] }

// ParseType is the reverse of String.
func ParseType(s string) (Type, bool) {
	for t, name := range typeNames {
		if name == s && name != "" {
			return Type(t), true
		}
	}
	return 0, false
}

// An Entry is one file, folder, symlink, fifo or device of a tree. Files with
// several hard links are as many files.
type Entry struct {
	Path         string // below the tree's root, which is "."; any bytes but NUL
	Type         Type
	Mode         uint32            // permission, setuid, setgid and sticky bits, as chmod(2) has them
	Size         int64             // of a File, in bytes
	Sum          [sha256.Size]byte // of a File's content
	Link         string            // target of a Symlink
	Major, Minor uint32            // of a Char or Block device
	Xattrs       []Xattr           // sorted by name
	Owner        *Owner            // nil unless Source.Owners
}

// An Owner is the user and group that a file belongs to.
type Owner struct{ UID, GID uint32 }

// An Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// A manifest is text that mtree(5) describes and go-mtree's ParseSpec reads:
// entries nest, ".." leaves a folder, names are encoded by vis(3) as go-mtree
// does. Its rules are chosen so that equal trees have equal texts, and so that
// nothing in a tree can pretend to be something else:
//
//   - No comments, no /set: neither host nor user nor date.
//   - Keywords are sorted, so that no line ends in a link target (whose last
//     backslash would continue the line).
//   - "=" within a name of an extended attribute is encoded too.
//   - A line is continued after foldAt bytes, since go-mtree reads no longer
//     lines than 64 KiB.
const (
	manifestHead = "#mtree v2.0\n"
	foldAt       = 32 << 10
)

// A folder is the part of a manifest about one folder of a tree, or about a tree
// that is a file: its lines, and what belongs between them.
type folder struct {
	text    []byte
	inserts []insert // in the order of at
}

// An insert stands for text[at:end]: what is in a folder, or a better line.
type insert struct {
	at, end int
	folder  *folder
	line    []byte
}

// writeManifest writes the manifest of the tree at f.
func writeManifest(w io.Writer, f *folder) error {
	if _, err := io.WriteString(w, manifestHead); err != nil {
		return err
	}
	return f.write(w)
}

func (f *folder) write(w io.Writer) error {
	from := 0
	for _, in := range f.inserts {
		if _, err := w.Write(f.text[from:in.at]); err != nil {
			return err
		}
		if _, err := w.Write(in.line); err != nil {
			return err
		}
		if in.folder != nil {
			if err := in.folder.write(w); err != nil {
				return err
			}
		}
		from = in.end
	}
	_, err := w.Write(f.text[from:])
	return err
}

// appendEntry appends the line of an entry called name.
func appendEntry(b []byte, e *Entry, name string) []byte {
	start := len(b)
	b = appendVis(b, name, false)
	if e.Type == Char || e.Type == Block {
		b = append(b, " device=linux,"...)
		b = strconv.AppendUint(b, uint64(e.Major), 10)
		b = append(b, ',')
		b = strconv.AppendUint(b, uint64(e.Minor), 10)
	}
	if e.Owner != nil {
		b = append(b, " gid="...)
		b = strconv.AppendUint(b, uint64(e.Owner.GID), 10)
	}
	if e.Type == Symlink {
		b = append(b, " link="...)
		b = appendVis(b, e.Link, false)
	}
	b = append(b, " mode=0"...)
	b = strconv.AppendUint(b, uint64(e.Mode), 8)
	if e.Type == File {
		b = append(b, sumKey...)
		b = hex.AppendEncode(b, e.Sum[:])
		b = append(b, " size="...)
		b = strconv.AppendInt(b, e.Size, 10)
	}
	b = append(b, " type="...)
	b = append(b, e.Type.String()...)
	if e.Owner != nil {
		b = append(b, " uid="...)
		b = strconv.AppendUint(b, uint64(e.Owner.UID), 10)
	}
	for _, x := range e.Xattrs {
		b = append(b, " xattr."...)
		b = appendVis(b, x.Name, true)
		b = append(b, '=')
		b = base64.StdEncoding.AppendEncode(b, []byte(x.Value))
	}
	return append(fold(b, start), '\n')
}

// sumKey comes before a file's sha256. It is in no name and no link target.
const sumKey = " sha256digest="

// fold breaks the line that starts at b[start:] after every foldAt bytes.
func fold(b []byte, start int) []byte {
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

// appendVis appends s as go-mtree's vis(3) writes it with its default flags:
// what is not graphic ASCII, and each of *?[#, as a backslash and three octal
// digits; a backslash twice. With key, "=" is encoded as well.
func appendVis(b []byte, s string, key bool) []byte {
	plain := 0 // start of what is appended as it is
	for i := range len(s) {
		c := s[i]
		if !visSpecial[c] && (!key || c != '=') {
			continue
		}
		b = append(b, s[plain:i]...)
		plain = i + 1
		if c == '\\' {
			b = append(b, '\\', '\\')
		} else {
			b = append(b, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		}
	}
	return append(b, s[plain:]...)
}

// visSpecial are the bytes that vis(3) encodes.
var visSpecial = func() (t [256]bool) {
	for c := range t {
		t[c] = c <= ' ' || c >= 0x7f || strings.IndexByte(`\*?[#`, byte(c)) >= 0
	}
	return t
}()

var errManifest = errors.New("not a manifest of layerbuild")

// unvis is the inverse of appendVis.
func unvis(s []byte) (string, error) {
	at := bytes.IndexByte(s, '\\')
	if at < 0 {
		return string(s), nil
	}
	b := append(make([]byte, 0, len(s)), s[:at]...)
	for i := at; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b = append(b, s[i])
		case i+1 < len(s) && s[i+1] == '\\':
			b = append(b, '\\')
			i++
		case i+3 < len(s):
			c, err := number(s[i+1:i+4], 8, 255)
			if err != nil {
				return "", err
			}
			b = append(b, byte(c))
			i += 3
		default:
			return "", errManifest
		}
	}
	return string(b), nil
}

// number reads a number of that base up to max.
func number(s []byte, base, max uint64) (n uint64, err error) {
	for _, c := range s {
		digit := uint64(c - '0')
		if digit >= base || n > (max-digit)/base {
			return 0, errManifest
		}
		n = n*base + digit
	}
	if len(s) == 0 {
		err = errManifest
	}
	return n, err
}

// parseManifest reads what writeManifest wrote, about hint entries. They come in
// its order: a folder before what lies in it, names within a folder sorted by
// their bytes.
func parseManifest(r io.Reader, hint int) ([]Entry, error) {
	lines := bufio.NewReaderSize(r, 64<<10)
	if head, err := readLine(lines); err != nil || string(head)+"\n" != manifestHead {
		return nil, cmp.Or(err, errManifest)
	}
	entries := make([]Entry, 0, hint)
	var open []string // the folders that are not left yet
	for {
		line, err := readLine(lines)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if string(line) == ".." {
			if len(open) == 0 {
				return nil, errManifest
			}
			open = open[:len(open)-1]
			continue
		}
		if len(open) == 0 && len(entries) > 0 {
			return nil, errManifest // a second root
		}
		entries = append(entries, Entry{})
		e := &entries[len(entries)-1]
		if err := parseEntry(line, e); err != nil {
			return nil, err
		}
		if err := place(e, open); err != nil {
			return nil, err
		}
		if e.Type == Dir {
			open = append(open, e.Path)
		}
	}
	if len(open) > 0 || len(entries) == 0 {
		return nil, errManifest
	}
	return entries, nil
}

// place turns the name that e.Path is into a path in the innermost open folder.
func place(e *Entry, open []string) error {
	if len(open) == 0 {
		if e.Path != "." {
			return errManifest
		}
		return nil
	}
	if e.Path == "" || e.Path == "." || e.Path == ".." || strings.ContainsAny(e.Path, "/\x00") {
		return errManifest
	}
	e.Path = join(open[len(open)-1], e.Path)
	return nil
}

// join returns the path of name in the folder dir of a tree.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// readLine returns the next line, put together again if it was folded. It is
// valid until the next call.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == nil && !bytes.HasSuffix(line, []byte("\\\n")) {
		return line[:len(line)-1], nil
	}
	if err == io.EOF && len(line) == 0 {
		return nil, io.EOF
	}
	line = bytes.Clone(line)
	for err == nil && bytes.HasSuffix(line, []byte("\\\n")) {
		var more []byte
		more, err = r.ReadSlice('\n')
		line = append(line[:len(line)-2], more...)
	}
	if err != nil {
		return nil, errManifest // a line without an end, or longer than any of ours
	}
	return line[:len(line)-1], nil
}

// parseEntry reads one line; the entry's Path is its name.
func parseEntry(line []byte, e *Entry) (err error) {
	name, words, _ := bytes.Cut(line, []byte(" "))
	if e.Path, err = unvis(name); err != nil {
		return err
	}
	for len(words) > 0 {
		var word []byte
		word, words, _ = bytes.Cut(words, []byte(" "))
		key, value, ok := bytes.Cut(word, []byte("="))
		if !ok {
			return errManifest
		}
		if err := e.set(key, value); err != nil {
			return fmt.Errorf("%w: keyword %q", errManifest, key)
		}
	}
	if e.Type == 0 || (e.Type == Symlink) != (e.Link != "") {
		return errManifest
	}
	return nil
}

// set sets what a keyword of the manifest says.
func (e *Entry) set(key, value []byte) (err error) {
	var n uint64
	switch string(key) {
	case "device":
		return e.setDevice(value)
	case "gid":
		n, err = number(value, 10, math.MaxUint32)
		e.owner().GID = uint32(n)
	case "uid":
		n, err = number(value, 10, math.MaxUint32)
		e.owner().UID = uint32(n)
	case "link":
		e.Link, err = unvis(value)
	case "mode":
		n, err = number(value, 8, 0o7777)
		e.Mode = uint32(n)
	case "sha256digest":
		if len(value) != hex.EncodedLen(len(e.Sum)) {
			return errManifest
		}
		_, err = hex.Decode(e.Sum[:], value)
	case "size":
		n, err = number(value, 10, math.MaxInt64)
		e.Size = int64(n)
	case "type":
		for t, name := range typeNames {
			if string(value) == name && name != "" {
				e.Type = Type(t)
				return nil
			}
		}
		return errManifest
	default:
		return e.setXattr(key, value)
	}
	return err
}

// owner returns the entry's owner, which it has from here on.
func (e *Entry) owner() *Owner {
	if e.Owner == nil {
		e.Owner = &Owner{}
	}
	return e.Owner
}

func (e *Entry) setDevice(value []byte) error {
	numbers, ok := bytes.CutPrefix(value, []byte("linux,"))
	major, minor, comma := bytes.Cut(numbers, []byte(","))
	x, xerr := number(major, 10, math.MaxUint32)
	y, yerr := number(minor, 10, math.MaxUint32)
	e.Major, e.Minor = uint32(x), uint32(y)
	if !ok || !comma {
		return errManifest
	}
	return cmp.Or(xerr, yerr)
}

func (e *Entry) setXattr(key, value []byte) error {
	name, ok := bytes.CutPrefix(key, []byte("xattr."))
	if !ok {
		return errManifest
	}
	x := Xattr{}
	var err error
	if x.Name, err = unvis(name); err != nil {
		return err
	}
	v, err := base64.StdEncoding.AppendDecode(nil, value)
	x.Value = string(v)
	e.Xattrs = append(e.Xattrs, x)
	return err
}
