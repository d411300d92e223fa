package oci

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// What several frames hold is what zstd itself reads of them.
func TestFrames(t *testing.T) {
	for _, size := range []int{0, 1, zstdFrame - 1, zstdFrame, 3*zstdFrame + 7} {
		data := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{}).Read(data[:size/2])
		var packed bytes.Buffer
		z, err := newFrameWriter(&packed, zstdLevel)
		must(t, err)
		_, err = z.Write(data)
		must(t, errors.Join(err, z.Close()))
		cmd := exec.Command("zstd", "-dqc")
		cmd.Stdin = &packed
		out, err := cmd.Output()
		if err != nil || !bytes.Equal(out, data) {
			t.Errorf("%d bytes: %d came back, %v", size, len(out), err)
		}
	}
}

func TestFramesThatCannotBeWritten(t *testing.T) {
	z, err := newFrameWriter(brokenWriter{}, zstdLevel)
	must(t, err)
	for range 20 {
		if _, err = z.Write(make([]byte, zstdFrame)); err != nil {
			break
		}
	}
	if closed := z.Close(); !errors.Is(err, errBroken) || !errors.Is(closed, errBroken) {
		t.Errorf("%v, then %v", err, closed)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
