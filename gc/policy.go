package gc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/stores"
)

// How often Due has a build collect: to look for what may go takes as long as `layerbuild du`.
// On a disk that is nearly full it happens more often.
const (
	every     = time.Hour
	everyFull = time.Minute
)

// DefaultPolicy returns what Collect removes after builds if the config file does not tell.
func DefaultPolicy() []Rule {
	return []Rule{
		{All: true, Filters: []Filter{{key: "type", op: "==", value: KindFailed}}, KeepDuration: 7 * 24 * time.Hour},
		{All: true, Filters: []Filter{{key: "type", op: "==", value: KindCorrupt}}, KeepDuration: 7 * 24 * time.Hour},
		{All: true, Filters: []Filter{{key: "type", op: "==", value: KindPartial}}, KeepDuration: 7 * 24 * time.Hour},
		{MaxUsed: Size{Percent: 60}, MinFree: Size{Percent: 10}, Reserved: Size{Bytes: 10e9}},
		{All: true, MaxUsed: Size{Percent: 60}, MinFree: Size{Percent: 10}, Reserved: Size{Bytes: 10e9}},
	}
}

// markOf returns the path of the file whose mtime is when the policy was last applied. The
// process that applies it locks the file.
func markOf(state string) string { return filepath.Join(state, "usage", "gc") }

// Due reports whether it is time to apply the policy. It costs two system calls.
func Due(state string, policy []Rule, now time.Time) bool {
	if len(policy) == 0 {
		return false
	}
	age := every
	if info, err := os.Stat(markOf(state)); err == nil {
		age = now.Sub(info.ModTime())
	}
	if age < 0 || age >= every {
		return true
	}
	d, err := diskOf(state)
	if err != nil || age < everyFull {
		return false
	}
	for _, rule := range policy {
		if free := rule.MinFree.of(d.size); free > 0 && d.free < free {
			return true
		}
	}
	return false
}

// Collect applies the policy to a state folder, due or not, and passes what it removes to
// removed. If another process is at it, Collect leaves it to that.
func Collect(ctx context.Context, state string, policy []Rule, removed func(Removed)) error {
	set, err := stores.OpenExisting(ctx, state)
	if set == nil || err != nil {
		return err
	}
	defer set.Close()
	if err := os.MkdirAll(filepath.Dir(markOf(set.State)), 0o700); err != nil {
		return err
	}
	mark, err := locks.TryOpen(markOf(set.State), os.O_CREATE|os.O_RDWR, locks.Exclusive)
	if errors.Is(err, locks.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer mark.Close()
	now := time.Now()
	if err := os.Chtimes(mark.Name(), now, now); err != nil {
		return err
	}
	return prune(ctx, set, PruneOptions{Rules: policy, By: "layerbuild gc", Removed: removed})
}
