package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/locks"
)

// GC removes the blobs that nothing in the index leads to, and what killed
// processes left half-written, and returns their bytes. Writers of layerbuild are waited for. Other tools take no lock, and
// write blobs before the index names them: blobs younger than age stay.
func (l *Layout) GC(ctx context.Context, age time.Duration) (freed int64, err error) {
	err = l.locked(ctx, locks.Exclusive, func() error {
		index, err := readRegular(filepath.Join(l.path, ispec.ImageIndexFile))
		if err != nil {
			return err
		}
		used := map[digest.Digest]bool{}
		if err := l.mark(ctx, index, used); err != nil {
			return fmt.Errorf("%s: %w", ispec.ImageIndexFile, err)
		}
		unused := func(name string) bool {
			d := digest.NewDigestFromEncoded(digest.SHA256, name)
			return checkDigest(d) == nil && !used[d]
		}
		half := func(name string) bool { return strings.HasPrefix(name, tempPrefix) }
		n, err := remove(filepath.Dir(l.blobPath(digest.FromString(""))), unused, time.Now().Add(-age))
		if err == nil {
			freed, err = remove(l.path, half, time.Now().Add(-age))
		}
		freed += n
		return err
	})
	if err != nil {
		return freed, fmt.Errorf("removing unused blobs of the OCI layout %s: %w", l.path, err)
	}
	return freed, nil
}

// mark adds all digests that a JSON document names, and what those name. Any
// "digest" counts, also in kinds of documents that nobody knows yet.
func (l *Layout) mark(ctx context.Context, document []byte, used map[digest.Digest]bool) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(document, &v); err != nil {
		return err
	}
	var found []digest.Digest
	digestsIn(v, &found)
	for _, d := range found {
		if used[d] {
			continue
		}
		used[d] = true
		if data := l.documentOf(d); data != nil {
			if err := l.mark(ctx, data, used); err != nil {
				return fmt.Errorf("blob %s: %w", d, err)
			}
		}
	}
	return nil
}

func digestsIn(v any, found *[]digest.Digest) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			digestsIn(e, found)
		}
	case map[string]any:
		if s, ok := v["digest"].(string); ok && checkDigest(digest.Digest(s)) == nil {
			*found = append(*found, digest.Digest(s))
		}
		for _, e := range v {
			digestsIn(e, found)
		}
	}
}

// documentOf returns a blob's content if it looks like a JSON object.
func (l *Layout) documentOf(d digest.Digest) []byte {
	f, err := openRegular(l.blobPath(d))
	if err != nil {
		return nil
	}
	first := make([]byte, 1)
	_, err = f.ReadAt(first, 0)
	f.Close()
	if err != nil || first[0] != '{' {
		return nil
	}
	data, err := readRegular(l.blobPath(d))
	if err != nil {
		return nil
	}
	return data
}

// remove removes the files of a folder whose names are unwanted, unless they are
// younger than newest. It returns their bytes.
func remove(dir string, unwanted func(string) bool, newest time.Time) (freed int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !unwanted(e.Name()) || fi.ModTime().After(newest) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return freed, err
		}
		freed += fi.Size()
	}
	return freed, nil
}
