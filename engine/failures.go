package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
)

// A FailedError says what failed in a build that went on after the first failure.
type FailedError struct {
	Causes  []error  // in the order in which they came
	Skipped []string // layers that need what failed
}

// Error tells all causes, the first one last: that is where people look.
func (e *FailedError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s failed", count(len(e.Causes), "layer"))
	if n := len(e.Skipped); n > 0 {
		need := "need"
		if n == 1 {
			need = "needs"
		}
		fmt.Fprintf(&text, ", and %s %s what failed: %s", count(n, "layer"), need, strings.Join(e.Skipped, ", "))
	}
	for i := len(e.Causes) - 1; i > 0; i-- {
		fmt.Fprintf(&text, "\n%s", e.Causes[i])
	}
	if len(e.Causes) > 1 {
		text.WriteString("\nwhat failed first:")
	}
	fmt.Fprintf(&text, "\n%s", e.Causes[0])
	return text.String()
}

func (e *FailedError) Unwrap() []error { return e.Causes }

// failures are what has failed so far.
type failures struct {
	mu     sync.Mutex
	causes []error
}

// failed notes that a layer could not be built, and returns the error that the build
// ends with now, or nil when it goes on.
func (b *Builder) failed(ctx context.Context, l *layers.Layer, err error) error {
	var miss *MissError
	if ctx.Err() != nil || errors.As(err, &miss) {
		return err
	}
	b.report(progress.Event{Kind: progress.Failed, Layer: l.Name, Text: err.Error()})
	if !b.KeepGoing {
		return err
	}
	b.failures.mu.Lock()
	defer b.failures.mu.Unlock()
	b.failures.causes = append(b.failures.causes, err)
	return nil
}

// failure is the error of a build that went on after failures, nil without any.
func (b *Builder) failure() error {
	causes := b.failures.causes
	if len(causes) == 0 {
		return nil
	}
	var skipped []string
	for _, l := range b.graph.Layers {
		if b.layers[l].skipped {
			skipped = append(skipped, l.Name)
		}
	}
	if len(causes) == 1 && len(skipped) == 0 {
		return causes[0]
	}
	return &FailedError{causes, skipped}
}
