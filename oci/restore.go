package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/locks"
)

// Restore makes a layout of a folder that was one, and whose index or oci-layout
// file is damaged or gone: what is damaged is put aside beside it, and its tags
// with it. It returns what it put aside. Blobs stay.
func Restore(ctx context.Context, path string) (aside []string, err error) {
	l := &Layout{path}
	restore := func() error {
		if checkVersionFile(path) != nil {
			aside = append(aside, ispec.ImageLayoutFile)
		}
		if _, err := l.readIndex(); err != nil {
			aside = append(aside, ispec.ImageIndexFile)
		}
		for i, name := range aside {
			aside[i] = filepath.Join(path, name+".damaged")
			if err := os.Rename(filepath.Join(path, name), aside[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return fillLayout(path)
	}
	if err = l.locked(ctx, locks.Exclusive, restore); errors.Is(err, fs.ErrNotExist) {
		aside, err = nil, restore() // without oci-layout there is nothing to lock
	}
	if err != nil {
		return nil, fmt.Errorf("restoring the OCI layout %s: %w", path, err)
	}
	return aside, nil
}

// checkVersionFile checks the file oci-layout.
func checkVersionFile(path string) error {
	data, err := readRegular(filepath.Join(path, ispec.ImageLayoutFile))
	if err != nil {
		return err
	}
	var v ispec.ImageLayout
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	if v.Version != ispec.ImageLayoutVersion {
		return fmt.Errorf("version %q", v.Version)
	}
	return nil
}
