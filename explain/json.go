package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON writes any value of this package, indented. What a terminal might obey is
// escaped, which means the same to who reads it.
func JSON(w io.Writer, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(plainJSON(raw), '\n'))
	return err
}

// plainJSON escapes what is not printable; outside of its strings JSON has no
// such characters but newlines.
func plainJSON(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		r, size := utf8.DecodeRune(raw)
		switch {
		case r == '\n' || strconv.IsPrint(r) && r != utf8.RuneError:
			out = append(out, raw[:size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, "\\u%04x\\u%04x", high, low)
		default:
			out = fmt.Appendf(out, "\\u%04x", r)
		}
		raw = raw[size:]
	}
	return out
}

// BundleFormat is what a bundle says it is.
const BundleFormat = "layerbuild explanation"

// Bounds of a bundle: it may come from anywhere.
const (
	maxBundle = 64 << 20 // bytes
	maxDepth  = 16       // of lists and objects in each other
)

// A Bundle is a report with all that is needed to compare its build with another,
// on any machine. No secret and no content of a file is in it.
type Bundle struct {
	Format  string             `json:"format"`
	Version int                `json:"version"`
	Report  Report             `json:"report"`
	Steps   []Step             `json:"steps"`
	Trees   map[string][]Entry `json:"trees"` // by digest, as their manifests are sorted
}

// A Step is the record of one layer.
type Step struct {
	Layer    string  `json:"layer"`
	Key      string  `json:"key"`
	Result   string  `json:"result"`
	Built    string  `json:"built"` // RFC 3339
	Base     string  `json:"base,omitempty"`
	Manifest string  `json:"manifest,omitempty"`
	Inputs   []Input `json:"inputs"`
}

// An Entry is one path of a tree.
type Entry struct {
	Path   []byte `json:"path"` // base64 in JSON, since it can be any bytes
	Type   string `json:"type"`
	Mode   uint32 `json:"mode"`
	Size   int64  `json:"size,omitempty"`
	Sum    []byte `json:"sha256,omitempty"`
	Link   []byte `json:"link,omitempty"`
	Major  uint32 `json:"major,omitempty"`
	Minor  uint32 `json:"minor,omitempty"`
	Owner  *Owner `json:"owner,omitempty"` // where it counts
	Xattrs []Attr `json:"xattrs,omitempty"`
}

// An Owner is the user and group of an Entry.
type Owner struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// An Attr is an extended attribute: its name, and its value or what stands for it.
type Attr struct {
	Name  []byte `json:"name"`
	Value []byte `json:"value"`
}

// ReadBundle reads a bundle and refuses what is none, is cut, is of another
// version, or is larger or deeper than a bundle can be.
func ReadBundle(r io.Reader) (*Bundle, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxBundle+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxBundle {
		return nil, fmt.Errorf("it is larger than the %d MiB that a bundle can have", maxBundle>>20)
	}
	if err := checkDepth(raw); err != nil {
		return nil, err
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil || head.Format != BundleFormat {
		return nil, errors.New("it is no bundle of `layerbuild explain --export`")
	}
	if head.Version != Version {
		return nil, fmt.Errorf("it is a bundle of version %d, and this layerbuild knows %d: export it with the same release", head.Version, Version)
	}
	var b Bundle
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return nil, fmt.Errorf("it is damaged: %q", err.Error())
	}
	return &b, nil
}

func checkDepth(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	for depth, first := 0, true; first || depth > 0; first = false {
		token, err := dec.Token()
		if err != nil {
			return errors.New("it is cut, or no JSON")
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > maxDepth {
			return errors.New("it is nested deeper than a bundle can be")
		}
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows its end")
	}
	return nil
}
