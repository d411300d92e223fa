package overlay

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
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
