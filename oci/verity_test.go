package oci

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// veritysetup agrees, for data of one block and on both sides of each level of the
// tree, and no longer when a byte of the data is another.
func TestVerity(t *testing.T) {
	veritysetup, err := exec.LookPath("veritysetup")
	if err != nil {
		veritysetup = "/usr/sbin/veritysetup"
	}
	for _, blocks := range []int{1, 2, 128, 129, 128 * 128, 128*128 + 1} {
		t.Run(strconv.Itoa(blocks), func(t *testing.T) {
			data := make([]byte, blocks*verityBlock)
			if _, err := rand.Read(data); err != nil {
				t.Fatal(err)
			}
			var area bytes.Buffer
			root, err := verity(bytes.NewReader(data), int64(len(data)), sha256.Sum256(data), &area)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "image")
			verify := func() error {
				if err := os.WriteFile(file, append(data[:len(data):len(data)], area.Bytes()...), 0o600); err != nil {
					t.Fatal(err)
				}
				return exec.Command(veritysetup, "verify", "--hash-offset="+strconv.Itoa(len(data)), file, file, hex.EncodeToString(root[:])).Run()
			}
			if err := verify(); err != nil {
				t.Errorf("veritysetup verify: %v", err)
			}
			data[len(data)/2] ^= 1
			if verify() == nil {
				t.Error("veritysetup takes other data for the same")
			}
		})
	}
	if _, err := verity(bytes.NewReader(nil), 100, [sha256.Size]byte{}, &bytes.Buffer{}); err == nil {
		t.Error("a part of a block is taken")
	}
}
