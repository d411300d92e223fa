package oci

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/klauspost/pgzip"
)

// someData is a stream of which some can be compressed.
func someData(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data[:size/2])
	return data
}

func sizesAround(block int) []int { return []int{0, 1, gzipTail, block - 1, block, 3*block + 7} }

// What several frames hold is what zstd itself reads of them.
func TestZstdBlocks(t *testing.T) {
	all := newCores(2)
	for _, size := range sizesAround(zstdBlock) {
		data := someData(size)
		cmd := exec.Command("zstd", "-dqc")
		cmd.Stdin = bytes.NewReader(compressed(t, data, Zstd, zstdLevel, all))
		out, err := cmd.Output()
		if err != nil || !bytes.Equal(out, data) {
			t.Errorf("%d bytes: %d came back, %v", size, len(out), err)
		}
	}
}

// A gzip stream is what pgzip would make, with whatever the cores did before.
func TestGzipBlocks(t *testing.T) {
	all := newCores(2)
	for level := 1; level <= gzipMost; level++ {
		for _, size := range sizesAround(gzipBlock) {
			data := someData(size)
			var want bytes.Buffer
			z, err := pgzip.NewWriterLevel(&want, level)
			must(t, err)
			must(t, z.SetConcurrency(gzipBlock, 2))
			_, err = z.Write(data)
			must(t, errors.Join(err, z.Close()))
			if !bytes.Equal(compressed(t, data, Gzip, level, all), want.Bytes()) {
				t.Errorf("level %d, %d bytes: not what pgzip makes of them", level, size)
			}
		}
	}
}

func compressed(t *testing.T, data []byte, c Compression, level int, all cores) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := newBlockWriter(&packed, c, level, all, nil)
	_, err := z.Write(data)
	must(t, errors.Join(err, z.Close()))
	return packed.Bytes()
}

func TestBlocksThatCannotBeWritten(t *testing.T) {
	for _, c := range []Compression{Gzip, Zstd, None} {
		z := newBlockWriter(brokenWriter{}, c, 1, newCores(2), nil)
		var err error
		for range 20 {
			if _, err = z.Write(make([]byte, c.blockSize())); err != nil {
				break
			}
		}
		if closed := z.Close(); !errors.Is(err, errBroken) || !errors.Is(closed, errBroken) {
			t.Errorf("%s: %v, then %v", c, err, closed)
		}
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
