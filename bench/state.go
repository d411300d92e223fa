package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// state asks what a state folder of 10,000 snapshots holds, and what of it would be
// removed, beside find, which only looks at the same files.
func state(b *bench) error {
	dir, err := b.project("state", chain(2))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		return err
	}
	if _, err := timed(b.layerbuild(dir, "build", "--quiet")); err != nil {
		return err
	}
	folder := filepath.Join(b.dir, "state-state/layerbuild")
	for i := range 10000 {
		if err := fillState(folder, i); err != nil {
			return err
		}
	}
	if err := copyRecords(filepath.Join(folder, "records/rootfs"), 10000); err != nil {
		return err
	}
	find := []string{"find", folder, "-printf", "%i %b %C@\n"}
	du, prune := b.layerbuild(dir, "du"), b.layerbuild(dir, "prune", "--quiet", "--dry-run", "--keep-storage", "40MB")
	first, err := timed(du)
	if err != nil {
		return err
	}
	fmt.Printf("%-42s %27.1f ms\n", "du of 10,000 snapshots, the first time", float64(first.Microseconds())/1000)
	if err := compare("du of 10,000 snapshots : find", du, find); err != nil {
		return err
	}
	if err := compare("prune decides among 10,000 : find", prune, find); err != nil {
		return err
	}
	n := 10000
	return compareSides("prune decides after each layer more : find", func() (time.Duration, error) {
		if err := fillState(folder, n); err != nil {
			return 0, err
		}
		n++
		return timed(prune)
	}, func() (time.Duration, error) { return timed(find) })
}

// fillState adds a snapshot, its packed layer, and the record that ties them
// together. Each has the snapshot below it for a parent, but for one in ten.
func fillState(folder string, i int) error {
	sum := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	diff := func(i int) string { return "sha256:" + sum(fmt.Sprint(i)) }
	parent, id := "", ""
	for n := i - i%10; n <= i; n++ { // a ChainID, as the image-spec has it
		if parent = id; parent == "" {
			id = diff(n)
		} else {
			id = "sha256:" + sum(parent+" "+diff(n))
		}
	}
	packed := fmt.Sprint("packed ", i)
	for path, v := range map[string]any{
		"snapshots/" + id[7:] + "/snapshot.json": map[string]any{
			"version": 1, "chainID": id, "diffID": diff(i), "parent": parent, "size": 4096, "inodes": 1, "created": "2026-01-01T00:00:00Z",
			"kind": "layer", "description": fmt.Sprintf("layer layer%d of ./stacker.yaml", i),
		},
		fmt.Sprintf("records/pack/%.2s/%[1]s.json", sum("record"+packed)): map[string]any{"sha256": "", "record": map[string]any{
			"kind": "pack", "inputs": []any{map[string]any{"code": "BASE_CHANGE", "name": "diff", "value": diff(i)}},
			"result": map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + sum(packed), "size": len(packed)},
		}},
		"snapshots/" + id[7:] + "/fs/":       nil,
		"layout/blobs/sha256/" + sum(packed): packed,
	} {
		path = filepath.Join(folder, path)
		if v == nil {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		data, err := json.Marshal(v)
		if text, ok := v.(string); ok {
			data = []byte(text)
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o700)
		}
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
