package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/oci"
)

// packing packs files of this machine, beside pipes of tar. Each side begins with
// nothing on disk and nothing left to write to it.
func packing(b *bench) error {
	tree := filepath.Join(b.dir, "packed")
	if err := sample("/usr/lib", tree, int64(*size)<<20); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	state := filepath.Join(b.dir, "state-packing")
	for _, c := range []struct{ name, floor string }{
		{"gzip", "pigz -6 -p2"},
		{"zstd", "zstd -q -T2 -3"},
	} {
		pipe := fmt.Sprintf("tar -C %s -cf - . | %s | ", tree, c.floor)
		err := compareFresh(fmt.Sprintf("pack %d MiB, %s : tar | %s | sha256sum", *size, c.name, c.floor), fresh(state),
			[]string{self, "pack", state, tree, c.name}, []string{"sh", "-c", pipe + "sha256sum"})
		if err != nil {
			return err
		}
		if _, err := timed([]string{self, "pack", state, tree, c.name}); err != nil {
			return err
		}
		if err := sizes(state, c.name, pipe+"wc -c"); err != nil {
			return err
		}
	}
	return nil
}

// fresh makes a folder anew, and has nothing left to write to the disk.
func fresh(dir string) func() error {
	return func() error {
		err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755))
		unix.Sync()
		return err
	}
}

// sizes prints how large our blob is beside what the floor makes.
func sizes(state, compression, floor string) error {
	layer, err := packedLayer(state, compression)
	if err != nil {
		return err
	}
	out, err := exec.Command("sh", "-c", floor).Output()
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return err
	}
	fmt.Printf("%-42s %27s   %27s   %.2f\n", "  its size, in MiB", fmt.Sprint(layer.Size>>20), fmt.Sprint(size>>20), float64(layer.Size)/float64(size))
	return nil
}

// unpacking unpacks a Debian base of about 500 MB as registries have such, beside
// tar, which unpacks the same file and checks nothing.
func unpacking(b *bench) error {
	debian, err := fixture("scripts/base-debian", "large")
	if err != nil {
		return err
	}
	rootfs := filepath.Join(debian, "rootfs.tar")
	info, err := os.Stat(rootfs)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	state, root := filepath.Join(b.dir, "state-unpacking"), filepath.Join(b.dir, "unpacked")
	for _, c := range []struct{ name, compress, floor string }{
		{"gzip", "pigz -6 -p2", "tar -xzf"},
		{"zstd", "zstd -q -T2 -3", "tar --zstd -xf"},
	} {
		file := filepath.Join(b.dir, "debian.tar."+c.name)
		if _, err := timed([]string{"sh", "-c", fmt.Sprintf("%s <%s >%s", c.compress, rootfs, file)}); err != nil {
			return err
		}
		if err := take(state, file, c.name); err != nil {
			return err
		}
		err := compareFresh(fmt.Sprintf("unpack a Debian of %d MB, %s : %s", info.Size()/1e6, c.name, c.floor), fresh(root),
			[]string{self, "unpack", state, c.name, root}, append(strings.Fields(c.floor), file, "-C", root))
		if err != nil {
			return err
		}
	}
	return nil
}

// take takes a tar file into a state folder, for the helper to unpack.
func take(state, file, compression string) error {
	store, err := oci.OpenStore(state)
	if err != nil {
		return err
	}
	base, err := store.BaseFromTar(context.Background(), "/", file, "", ispec.Platform{OS: "linux", Architecture: runtime.GOARCH})
	if err != nil {
		return err
	}
	return keepLayer(state, compression, base.Layers[0])
}

// helper is this program started by itself, so that packing and unpacking are
// processes as their floors are: `pack STATE FOLDER COMPRESSION` and `unpack STATE
// COMPRESSION FOLDER`.
func helper(args []string) error {
	if len(args) != 4 {
		return errors.New("usage: bench pack STATE FOLDER COMPRESSION | bench unpack STATE COMPRESSION FOLDER")
	}
	ctx, state := context.Background(), args[1]
	store, err := oci.OpenStore(state)
	if err != nil {
		return err
	}
	if args[0] == "unpack" {
		layer, err := packedLayer(state, args[2])
		if err != nil {
			return err
		}
		return store.Unpack(ctx, layer, args[3], nil)
	}
	packed, err := store.Pack(ctx, args[2], oci.PackOptions{Compression: oci.Compression(args[3]), Root: true})
	if err != nil {
		return err
	}
	return keepLayer(state, args[3], packed.Layer)
}

func keepLayer(state, compression string, layer oci.Layer) error {
	text, err := json.Marshal(layer)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(state, compression+".json"), text, 0o644)
}

// packedLayer is what keepLayer has kept.
func packedLayer(state, compression string) (layer oci.Layer, err error) {
	text, err := os.ReadFile(filepath.Join(state, compression+".json"))
	if err != nil {
		return layer, err
	}
	return layer, json.Unmarshal(text, &layer)
}

var errEnough = errors.New("enough")

// sample copies files of a folder until they have so many bytes.
func sample(from, to string, size int64) error {
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		switch {
		case entry.IsDir():
			return os.MkdirAll(dest, 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dest)
		case !entry.Type().IsRegular():
			return nil
		}
		n, err := copyFile(path, dest)
		if size -= n; err == nil && size <= 0 {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%s has too little in it", from)
	}
	return err
}

func copyFile(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	return n, errors.Join(err, out.Close())
}
