package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/layerbuild/layerbuild/oci"
)

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
	text, err := json.Marshal(packed.Layer)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(state, args[3]+".json"), text, 0o644)
}

// packedLayer is what the helper has packed.
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
