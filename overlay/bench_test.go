package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func BenchmarkNormalize(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	m, err := s.Prepare(b.Context(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer m.Drop()
	for i := range 100 {
		dir := filepath.Join(m.Upper(), fmt.Sprint(i))
		os.Mkdir(dir, 0o755)
		for k := range 1000 {
			os.WriteFile(filepath.Join(dir, fmt.Sprint(k)), nil, 0o644)
		}
	}
	for b.Loop() {
		if _, err := m.Normalize(b.Context(), epoch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMadeAgain normalizes a folder of the parents that was removed and made again
// with equal files: with their mtimes, so that content is compared, and with others.
func BenchmarkMadeAgain(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const files, size = 10_000, 16 << 10
	fill := func(root string, mtime time.Time) {
		for i := range files {
			path := filepath.Join(root, "modules", fmt.Sprint(i/100), fmt.Sprint(i))
			if i%100 == 0 {
				os.MkdirAll(filepath.Dir(path), 0o755)
			}
			os.WriteFile(path, make([]byte, size), 0o644)
			os.Chtimes(path, mtime, mtime)
		}
	}
	m, err := s.Prepare(b.Context(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer m.Drop()
	fill(m.Upper(), epoch)
	base, err := m.Commit(b.Context(), digest.FromString("base"), Label{})
	if err != nil {
		b.Fatal(err)
	}
	for name, mtime := range map[string]time.Time{"compared": epoch, "other times": epoch.Add(-time.Hour)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(files * size)
			for range b.N {
				b.StopTimer()
				m, err := s.Prepare(b.Context(), base.ID)
				if err != nil {
					b.Fatal(err)
				}
				fill(m.Upper(), mtime)
				b.StartTimer()
				diff, err := m.Normalize(b.Context(), epoch)
				b.StopTimer()
				if err != nil || diff.Empty != mtime.Equal(epoch) {
					b.Fatal(diff, err)
				}
				m.Drop()
			}
		})
	}
}

func BenchmarkPrepareMountDrop(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		m, err := s.Prepare(b.Context(), "")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Mount(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := m.Drop(); err != nil {
			b.Fatal(err)
		}
	}
}
