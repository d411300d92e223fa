package history

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/imports"
)

// FuzzAgainst compares a build with any bundle: none panics, and nothing in it reaches a terminal
// unescaped.
func FuzzAgainst(f *testing.F) {
	mine := imports.Entry{Path: ".", Type: imports.Dir, Mode: 0o755}
	tree := digest.FromString("tree")
	record := &buildcache.Record{Kind: buildcache.Rootfs, Key: "k", Inputs: buildcache.Inputs{
		{Code: buildcache.Import, Name: "import a", Value: string(tree)},
		{Code: buildcache.Import, Name: "copy 1 /a", Value: `{"Tree":"` + string(tree) + `","Mode":420}`},
		{Code: buildcache.Definition, Name: "run", Value: "a\nb\n"},
	}}
	here := &side{
		report: &explain.Report{Layers: []explain.Layer{{Name: "a", Outcome: explain.Hit, Key: "k"}}},
		record: func(string) *buildcache.Record { return record },
		tree: func(d digest.Digest) ([]imports.Entry, error) {
			if d != tree {
				return nil, fs.ErrNotExist
			}
			return []imports.Entry{mine}, nil
		},
	}
	theirs := explain.Bundle{
		Format: explain.BundleFormat, Version: explain.Version, Report: *here.report,
		Steps: []explain.Step{{Layer: "a", Key: "\x1b[2J", Built: "2026-01-01T00:00:00Z", Base: "\x1b", Inputs: []explain.Input{
			{Code: "IMPORT", Name: "import a", Value: "sha256:other"},
			{Code: "IMPORT", Name: "copy 1 /a", Value: `{"Tree":"sha256:other","Mode":"\u001b"}`},
			{Code: "DEFINITION", Name: "run", Value: "a\n\x1b\u009b\n"},
			{Code: "\x07", Name: "\x07", Value: "[redacted 00000000:00000000000000000000000000000000]", Redacted: true},
		}}},
		Trees: map[string][]explain.Entry{"sha256:other": {
			{Path: []byte("\xff\x1b"), Type: "file", Sum: []byte("short"), Xattrs: []explain.Attr{{Name: []byte("\x1b"), Value: []byte("v")}}},
			{Path: []byte("."), Type: "link", Link: []byte("\x1b")},
		}},
	}
	raw, err := json.Marshal(theirs)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := explain.ReadBundle(bytes.NewReader(raw))
		if err != nil {
			return
		}
		there, err := sideOf(b, "bundle")
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := explain.Text(&out, compareSides(here, there), explain.Options{All: true, Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if r != '\n' && !strconv.IsPrint(r) {
				t.Fatalf("%q is in %q", r, &out)
			}
		}
	})
}
