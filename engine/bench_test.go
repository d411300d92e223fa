package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

// silence is a sink that shows nothing.
type silence struct{}

func (silence) Report(progress.Event) {}

// touchRunner stands for a runtime: a step makes one file.
type touchRunner struct{}

func (touchRunner) Run(_ context.Context, s sandbox.Step) error {
	return os.WriteFile(filepath.Join(s.Rootfs, "made"), []byte(strings.Join(s.Env, "\n")), 0o644)
}

// BenchmarkColdGraph builds graphs of independent layers that nothing is known of,
// but for the runtime as builds are. The time a layer takes must not grow with
// their number.
func BenchmarkColdGraph(b *testing.B) {
	for _, n := range []int{200, 2000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir()
			var text strings.Builder
			for i := range n {
				fmt.Fprintf(&text, "layer%d:\n  from: {type: scratch}\n  run: touch %d\n", i, i)
			}
			file := filepath.Join(dir, "stacker.yaml")
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				b.Fatal(err)
			}
			graph, err := layers.Load(file, layers.Options{})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				builder, err := open(b.Context(), Options{StateDir: b.TempDir(), OCIDir: filepath.Join(b.TempDir(), "oci"), Sink: silence{}}, graph)
				if err != nil {
					b.Fatal(err)
				}
				builder.mayMount, builder.runner = true, touchRunner{}
				err = builder.build(b.Context())
				builder.close()
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/layer")
			var usage unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(usage.Maxrss>>10), "peak-MiB")
		})
	}
}
