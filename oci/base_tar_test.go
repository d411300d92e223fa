package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// filter runs data through another tool.
func filter(t *testing.T, data []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

func TestBaseFromTar(t *testing.T) {
	ctx := context.Background()
	plain := tarOf(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "./bin/sh"},
		tar.Header{Name: "bin/link", Typeflag: tar.TypeLink, Linkname: "./bin/sh"},
		tar.Header{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/../../etc"})
	half := len(plain) / 2
	members := append(filter(t, plain[:half], "gzip", "-n"), filter(t, plain[half:], "gzip", "-n")...)
	for _, c := range []struct {
		name      string
		content   []byte
		mediaType string
		asIs      bool
	}{
		{"plain", plain, ispec.MediaTypeImageLayerGzip, false},
		{"gzip", filter(t, plain, "gzip", "-9n"), ispec.MediaTypeImageLayerGzip, true},
		{"gzip members", members, ispec.MediaTypeImageLayerGzip, true},
		{"zstd", filter(t, plain, "zstd", "-q"), ispec.MediaTypeImageLayerZstd, true},
		{"xz", filter(t, plain, "xz"), ispec.MediaTypeImageLayerGzip, false},
		{"bzip2", filter(t, plain, "bzip2"), ispec.MediaTypeImageLayerGzip, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			file := filepath.Join(t.TempDir(), "rootfs.img") // its name says nothing
			must(t, os.WriteFile(file, c.content, 0o644))
			base, err := s.BaseFromTar(ctx, "/", file, digest.FromBytes(c.content), amd64)
			must(t, err)
			l := base.Layers[0]
			if l.DiffID != digest.FromBytes(plain) || l.MediaType != c.mediaType || c.asIs != (l.Digest == digest.FromBytes(c.content)) {
				t.Errorf("layer %+v", l)
			}
			root := t.TempDir()
			must(t, s.Unpack(ctx, l, root, nil))
			if got, err := os.ReadFile(filepath.Join(root, "bin/link")); err != nil || string(got) != "./bin/sh" {
				t.Errorf("bin/link: %q, %v", got, err)
			}
			other := filepath.Join(t.TempDir(), "another")
			must(t, os.WriteFile(other, c.content, 0o600))
			again, err := newStore(t).BaseFromTar(ctx, "/", other, "", amd64)
			if err != nil || again.Manifest != base.Manifest {
				t.Errorf("the same file under another name: %v, %v", again, err)
			}
			nothingInTmp(t, s)
		})
	}
}

func TestTarsThatAreRefused(t *testing.T) {
	ctx := context.Background()
	good := tarOf(t, tar.Header{Name: "a"}, tar.Header{Name: "b"})
	gz := filter(t, good, "gzip", "-n")
	one := func(h tar.Header) []byte { return tarOf(t, tar.Header{Name: "fine"}, h) }
	link := func(target string) []byte {
		return one(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: target})
	}
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"absolute", one(tar.Header{Name: "/etc/passwd"}), `entry "/etc/passwd" is an absolute name`},
		{"climbing", one(tar.Header{Name: "a/../../b"}), `entry "a/../../b" climbs out`},
		{"link absolute", link("/etc/passwd"), `which is an absolute name`},
		{"link climbing", link("../etc/passwd"), `which climbs out`},
		{"whiteout", one(tar.Header{Name: "a/.wh.b"}), `entry "a/.wh.b" is a whiteout`},
		{"opaque", one(tar.Header{Name: ".wh..wh..opq"}), `is a whiteout`},
		{"root is a link", one(tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: "/etc"}), `is the root and not a folder`},
		{"unknown type", one(tar.Header{Name: "v", Typeflag: 'V'}), `unknown type`},
		{"text", []byte(strings.Repeat("this is no tar file\n", 100)), "it is not a tar file, nor one compressed with gzip, zstd, xz or bzip2"},
		{"short text", []byte("this is no tar file\n"), "it is not a tar file"},
		{"longer text", []byte(strings.Repeat("x", 300)), "it is not a tar file"},
		{"text in gzip", filter(t, []byte("this is no tar file\n"), "gzip"), "what it holds, decompressed, is not a tar file"},
		{"empty", nil, "it is empty, not a tar file"},
		{"empty gzip", filter(t, nil, "gzip", "-n"), "it is empty, not a tar file"},
		{"cut in an entry", good[:700], "it is cut off"},
		{"cut in a header", good[:300], "it is cut off"},
		{"cut between entries", good[:1024], "it is cut off"},
		{"cut gzip", gz[:len(gz)-10], "cut off"},
		{"damaged gzip", append(append([]byte{}, gz[:len(gz)-8]...), "damaged!"...), "checksum"},
		{"junk after gzip", append(append([]byte{}, gz...), "junk"...), "after a gzip member"},
		{"zeros after gzip", append(append([]byte{}, gz...), make([]byte, 20)...), "zero bytes follow"},
		{"cut zstd", filter(t, good, "zstd", "-q")[:40], "cut off"},
		{"gzip header only", gz[:8], "cut off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			file := filepath.Join(t.TempDir(), "f.tar")
			must(t, os.WriteFile(file, c.content, 0o644))
			base, err := s.BaseFromTar(ctx, "/", file, "", amd64)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), file+": ") {
				t.Errorf("%+v, error %v, want %q", base, err, c.want)
			}
			blobs, err := os.ReadDir(s.blobs)
			if err != nil || len(blobs) > 0 {
				t.Errorf("%d blobs were kept, %v", len(blobs), err)
			}
			nothingInTmp(t, s)
		})
	}
}

func TestTarSourcesThatAreNoFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, unix.Mkfifo(at("fifo"), 0o644))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o644, 0))
	must(t, os.Symlink("fifo", at("link")))
	for name, want := range map[string]string{"fifo": "not a regular file", "socket": "not a regular file", "link": "not a regular file",
		".": "not a regular file", "none": "no such file"} {
		_, err := newStore(t).BaseFromTar(context.Background(), "/", at(name), "", amd64)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), dir) != 1 {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestTarThatChanged(t *testing.T) {
	s := newStore(t)
	file := filepath.Join(t.TempDir(), "f.tar")
	must(t, os.WriteFile(file, tarOf(t, tar.Header{Name: "a"}), 0o644))
	if _, err := s.BaseFromTar(context.Background(), "/", file, digest.FromString("before"), amd64); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Error(err)
	}
	nothingInTmp(t, s)
}

// FuzzCheckTar: no input makes the checker panic or lets a dangerous name pass.
func FuzzCheckTar(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "a"}, tar.Header{Name: "d/", Typeflag: tar.TypeDir}))
	f.Add(tarOf(f, tar.Header{Name: "../a"}))
	f.Add(tarOf(f, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../x"}))
	f.Add([]byte{})
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkTar(context.Background(), bytes.NewReader(data), true, &tally{}) != nil {
			return
		}
		tr := tar.NewReader(bytes.NewReader(data))
		for {
			hdr, err := tr.Next()
			if err != nil {
				return
			}
			if hdr.Typeflag != tar.TypeXGlobalHeader && !filepath.IsLocal(hdr.Name) && filepath.Clean(hdr.Name) != "." {
				t.Errorf("%q passed", hdr.Name)
			}
		}
	})
}

// Whatever of the image of a tar is damaged, the next time that the tar is taken in makes it
// again.
func TestBaseFromTarIsMadeAgain(t *testing.T) {
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "f.tar")
	must(t, os.WriteFile(file, tarOf(t, tar.Header{Name: "a"}), 0o644))
	state := t.TempDir()
	first, err := OpenStore(state)
	must(t, err)
	base, err := first.BaseFromTar(ctx, "/", file, "", amd64)
	must(t, err)
	must(t, first.Close())
	blobs, err := os.ReadDir(first.blobs)
	must(t, err)
	for _, blob := range blobs {
		path := filepath.Join(first.blobs, blob.Name())
		sound, err := os.ReadFile(path)
		must(t, err)
		flipped := append([]byte{}, sound...)
		flipped[3] ^= 0xff
		for how, content := range map[string][]byte{"flipped": flipped, "emptied": nil, "cut": sound[:len(sound)/2]} {
			if how == "flipped" && digest.FromBytes(sound) == base.Layers[0].Digest {
				continue // of a layer, this shows when it is unpacked
			}
			must(t, os.Remove(path))
			must(t, os.WriteFile(path, content, 0o444))
			s, err := OpenStore(state)
			must(t, err)
			again, err := s.BaseFromTar(ctx, "/", file, "", amd64)
			if err != nil || again.Manifest != base.Manifest {
				t.Errorf("%s %s: %v", blob.Name(), how, err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != string(sound) {
				t.Fatalf("%s %s: it was not made again, %v", blob.Name(), how, err)
			}
			must(t, s.Close())
		}
	}
}
