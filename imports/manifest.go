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

	gomtree "github.com/vbatts/go-mtree"

	"github.com/layerbuild/layerbuild/mtree"
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

// A manifest of a tree is text as package mtree has it: entries nest, and ".." leaves a folder.
// Equal trees have equal manifests.

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
	if _, err := io.WriteString(w, mtree.Head); err != nil {
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
	return append(mtree.Fold(e.appendKeywords(mtree.AppendName(b, name)), start), '\n')
}

// appendKeywords appends all that is told of an entry, a space before each keyword.
func (e *Entry) appendKeywords(b []byte) []byte {
	if e.Type == Char || e.Type == Block {
		b = append(b, deviceKey...)
		b = strconv.AppendUint(b, uint64(e.Major), 10)
		b = append(b, ',')
		b = strconv.AppendUint(b, uint64(e.Minor), 10)
	}
	if e.Owner != nil {
		b = strconv.AppendUint(append(b, gidKey...), uint64(e.Owner.GID), 10)
	}
	if e.Type == Symlink {
		b = mtree.AppendName(append(b, linkKey...), e.Link)
	}
	b = strconv.AppendUint(append(b, modeKey...), uint64(e.Mode), 8)
	if e.Type == File {
		b = hex.AppendEncode(append(b, sumKey...), e.Sum[:])
		b = strconv.AppendInt(append(b, sizeKey...), e.Size, 10)
	}
	b = append(append(b, typeKey...), e.Type.String()...)
	if e.Owner != nil {
		b = strconv.AppendUint(append(b, uidKey...), uint64(e.Owner.UID), 10)
	}
	for _, x := range e.Xattrs {
		b = mtree.AppendXattr(append(b, ' '), x.Name, x.Value)
	}
	return b
}

// What comes before a value on a line. sumKey is in no name and no link target.
const (
	deviceKey = " " + string(mtree.Device) + "=linux,"
	gidKey    = " " + string(mtree.GID) + "="
	linkKey   = " " + string(mtree.Link) + "="
	modeKey   = " " + string(mtree.Mode) + "=0"
	sumKey    = " " + string(mtree.SHA256) + "="
	sizeKey   = " " + string(mtree.Size) + "="
	typeKey   = " " + string(mtree.Type) + "="
	uidKey    = " " + string(mtree.UID) + "="
)

var errManifest = errors.New("not a manifest of layerbuild")

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
	if head, err := readLine(lines); err != nil || string(head)+"\n" != mtree.Head {
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
	if e.Path, err = mtree.Name(string(name)); err != nil {
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
	switch gomtree.Keyword(key) {
	case mtree.Device:
		return e.setDevice(value)
	case mtree.GID:
		n, err = number(value, 10, math.MaxUint32)
		e.owner().GID = uint32(n)
	case mtree.UID:
		n, err = number(value, 10, math.MaxUint32)
		e.owner().UID = uint32(n)
	case mtree.Link:
		e.Link, err = mtree.Name(string(value))
	case mtree.Mode:
		n, err = number(value, 8, 0o7777)
		e.Mode = uint32(n)
	case mtree.SHA256:
		if len(value) != hex.EncodedLen(len(e.Sum)) {
			return errManifest
		}
		_, err = hex.Decode(e.Sum[:], value)
	case mtree.Size:
		n, err = number(value, 10, math.MaxInt64)
		e.Size = int64(n)
	case mtree.Type:
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
	name, ok := strings.CutPrefix(string(key), string(mtree.Xattr)+".")
	if !ok {
		return errManifest
	}
	x := Xattr{}
	var err error
	if x.Name, err = mtree.Name(name); err != nil {
		return err
	}
	v, err := base64.StdEncoding.AppendDecode(nil, value)
	x.Value = string(v)
	e.Xattrs = append(e.Xattrs, x)
	return err
}
