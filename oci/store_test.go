package oci

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// nothingInTmp checks that a store left no half-made file behind.
func nothingInTmp(t *testing.T, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(s.state.Path("tmp"))
	must(t, err)
	for _, e := range entries {
		t.Errorf("left in tmp: %s", e.Name())
	}
}

func TestStoreKeepsWhatItsDigestSays(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	content := []byte("content")
	d := descriptorOf("text/plain", content)
	if s.Has(d) {
		t.Fatal("an empty store has a blob")
	}
	if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening what is not there: %v", err)
	}
	for name, wrong := range map[string]string{"other": "tnetnoc", "short": "cont", "long": "content and more"} {
		if err := s.Put(ctx, strings.NewReader(wrong), d); !errors.Is(err, ErrCorrupt) || s.Has(d) {
			t.Errorf("%s content: %v, kept: %v", name, err, s.Has(d))
		}
	}
	must(t, s.Put(ctx, bytes.NewReader(content), d))
	must(t, s.Put(ctx, nil, d)) // nothing is read when it is there
	fi, err := os.Stat(s.Path(d.Digest))
	must(t, err)
	if fi.Mode().Perm() != 0o444 {
		t.Errorf("mode %v", fi.Mode())
	}
	r, err := s.OpenVerified(d)
	must(t, err)
	got, err := io.ReadAll(r)
	r.Close()
	if err != nil || string(got) != "content" {
		t.Errorf("read %q, %v", got, err)
	}
	nothingInTmp(t, s)
}

func TestStoreNoticesDamage(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	d, err := s.PutBytes(ctx, "", []byte("content"))
	must(t, err)
	damage := func(content string) {
		must(t, os.Remove(s.Path(d.Digest)))
		must(t, os.WriteFile(s.Path(d.Digest), []byte(content), 0o444))
	}
	damage("tnetnoc")
	r, err := s.OpenVerified(d)
	must(t, err)
	if _, err := io.ReadAll(r); !errors.Is(err, ErrCorrupt) {
		t.Errorf("other content: %v", err)
	}
	r.Close()
	damage("cut")
	if _, err := s.Open(d); !errors.Is(err, ErrCorrupt) || s.Has(d) {
		t.Errorf("cut content: %v, has: %v", err, s.Has(d))
	}
	must(t, s.Put(ctx, strings.NewReader("content"), d)) // is replaced
	if _, err := s.ReadAll(d); err != nil {
		t.Error(err)
	}
}

func TestStoreRefusesOtherDigests(t *testing.T) {
	s := newStore(t)
	for _, d := range []digest.Digest{"", "sha256:../../../../etc/passwd", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e",
		digest.SHA512.FromString("x")} {
		if _, err := s.Open(Descriptor{Digest: d}); err == nil || s.Has(Descriptor{Digest: d}) {
			t.Errorf("%q was taken for a digest", d)
		}
	}
}

func TestStoreGivesUpWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := newStore(t)
	w, err := s.NewWriter(ctx)
	must(t, err)
	_, err = w.Write([]byte("half"))
	must(t, err)
	cancel()
	if _, err := w.Write([]byte("more")); !errors.Is(err, context.Canceled) {
		t.Errorf("writing after a cancel: %v", err)
	}
	must(t, w.Close())
	nothingInTmp(t, s)
}

func TestWriterStartsAgain(t *testing.T) {
	s := newStore(t)
	w, err := s.NewWriter(context.Background())
	must(t, err)
	for _, part := range []string{"wrong", "", "right"} {
		if part == "" {
			must(t, w.Reset())
		} else if _, err := w.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := w.Commit(); err != nil || d.Digest != digest.FromString("right") || d.Size != 5 {
		t.Errorf("%v, %v", d, err)
	}
}

func TestStoreIsSharedByWriters(t *testing.T) {
	state := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := OpenStore(state) // as other processes would
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 20 {
				if _, err := s.PutBytes(context.Background(), "", []byte{byte(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	blobs, err := os.ReadDir(filepath.Join(state, "layout", "blobs", "sha256"))
	must(t, err)
	if len(blobs) != 20 {
		t.Errorf("%d blobs, want 20", len(blobs))
	}
}

func TestStoreSweepsWhatNobodyWrites(t *testing.T) {
	s := newStore(t)
	w, err := s.NewWriter(context.Background())
	must(t, err)
	defer w.Close()
	write(t, filepath.Join(s.state.Path("tmp"), "blob-leftover"), "half")
	write(t, filepath.Join(s.state.Path("tmp"), "of-another-room"), "x")
	_, err = OpenStore(string(s.state))
	must(t, err)
	if got := names(t, s.state.Path("tmp")); got != filepath.Base(w.f.Name())+" of-another-room" {
		t.Errorf("in tmp: %s", got)
	}
}

func TestStoreIsALayoutForUmoci(t *testing.T) {
	s := newStore(t)
	if out := run(t, "umoci", "ls", "--layout", s.dir); strings.TrimSpace(out) != "" {
		t.Errorf("umoci ls: %q", out)
	}
}
