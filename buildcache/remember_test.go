package buildcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A fake is a step whose result is the number of times that it was done, and what its
// Session was told.
type fake struct {
	Step[int]
	did    int
	misses []string // why
	differ bool     // what it gives from now on
}

func newFake(kind Kind, name string) *fake {
	f := &fake{}
	f.Kind, f.Origin.Layer = kind, "app"
	f.Inputs.Add(Definition, "name", name)
	f.Missed = func(_ context.Context, miss error) error { f.misses = append(f.misses, fmt.Sprint(miss)); return nil }
	f.Do = func(context.Context) (int, error) {
		f.did++
		return f.did, nil
	}
	f.Compare = func(_ context.Context, before, again int) (bool, error) { return before == again && !f.differ, nil }
	return f
}

func all(string) bool { return true }

// TestPolicies is the table at Policy: what becomes of a step of each kind that is
// remembered, and of one that is not.
func TestPolicies(t *testing.T) {
	elsewhere := func(context.Context) bool { return false }
	for _, test := range []struct {
		policy         string
		kinds          string
		here           func(context.Context) bool
		found, missing How
		err            error // of the one that is missing
	}{
		{"", "rootfs labels pack digest resolve base", nil, Hit, Done, nil},
		{"no-cache", "rootfs labels pack digest", nil, Done, Done, nil},
		{"no-cache", "resolve base", nil, Hit, Done, nil},
		{"fail-on-miss", "rootfs labels pack", nil, Hit, Unknown, ErrRefused},
		{"fail-on-miss", "digest resolve base", nil, Hit, Done, nil},
		{"plan", "rootfs labels pack", nil, Hit, Unknown, nil},
		{"plan", "digest resolve base", nil, Hit, Done, nil},
		{"plan", "digest resolve base", elsewhere, Hit, Unknown, nil},
		{"verify", "rootfs labels pack digest", nil, Checked, Done, nil},
		{"verify", "resolve base", nil, Hit, Done, nil},
		{"other", "rootfs labels pack digest resolve base", nil, Hit, Done, nil},
		{"plan verify", "rootfs labels pack", nil, Hit, Unknown, nil},
		{"plan no-cache", "rootfs labels pack", nil, Unknown, Unknown, nil},
		{"plan no-cache", "digest", nil, Hit, Done, nil},
		{"fail-on-miss no-cache", "rootfs labels pack", nil, Unknown, Unknown, ErrRefused},
	} {
		for _, kind := range strings.Fields(test.kinds) {
			t.Run(test.policy+" "+kind, func(t *testing.T) {
				c := open(t, t.TempDir())
				step := newFake(Kind(kind), "x")
				step.Here = test.here
				if _, _, err := Remember(t.Context(), &Session{Cache: c}, &step.Step); err != nil {
					t.Fatal(err)
				}
				for _, name := range []string{"x", "y"} {
					s := &Session{Cache: c, Policy: policyOf(test.policy)}
					step := newFake(Kind(kind), name)
					step.Here = test.here
					_, out, err := Remember(t.Context(), s, &step.Step)
					want, wantErr := test.found, error(nil)
					if name == "y" {
						want = test.missing
					}
					if want == Unknown {
						wantErr = test.err
					}
					did := 0
					if want == Done || want == Checked {
						did = 1
					}
					if out.How != want || !errors.Is(err, wantErr) || err != nil && wantErr == nil || step.did != did {
						t.Errorf("%s: way %d, want %d; done %d times, want %d; %v", name, out.How, want, step.did, did, err)
					}
					if told := len(step.misses) > 0; told != (want != Hit && want != Checked) {
						t.Errorf("%s: misses told: %q", name, step.misses)
					}
				}
			})
		}
	}
}

func policyOf(words string) (p Policy) {
	for _, word := range strings.Fields(words) {
		switch word {
		case "no-cache":
			p.NoCache = all
		case "verify":
			p.Verify = all
		case "fail-on-miss":
			p.FailOnMiss = true
		case "plan":
			p.Plan = true
		case "other": // than the step's
			p.NoCache = func(layer string) bool { return layer != "app" }
			p.Verify = p.NoCache
		}
	}
	return p
}

// TestOnceForAll has many want one step at a time: one does it, the others take its
// result, and nobody holds a slot while it prepares.
func TestOnceForAll(t *testing.T) {
	c := open(t, t.TempDir())
	for _, policy := range []string{"", "no-cache"} {
		s := &Session{Cache: c, Policy: policyOf(policy)}
		var did, ready atomic.Int32
		var ways [Checked + 1]atomic.Int32
		var all sync.WaitGroup
		begin := make(chan struct{})
		for range 8 {
			all.Go(func() {
				step := newFake(Rootfs, "x"+policy)
				step.Doing = "has been doing it"
				step.Prepare = func(context.Context) error {
					if ready.Add(1) == 8 {
						close(begin)
					}
					<-begin
					return nil
				}
				step.Do = func(context.Context) (int, error) { return int(did.Add(1)), nil }
				got, out, err := Remember(t.Context(), s, &step.Step)
				if err != nil || got != 1 {
					t.Errorf("%d, %v", got, err)
				}
				ways[out.How].Add(1)
			})
		}
		all.Wait()
		if did.Load() != 1 || ways[Done].Load() != 1 || ways[Meanwhile].Load() != 7 {
			t.Errorf("%q: it was done %d times", policy, did.Load())
		}
	}
}

// TestNested has one slot and eight layers, each of whose steps needs those of all
// layers before it, which nobody has done: a step that held the slot while it waits for
// a nested one would wait for ever.
func TestNested(t *testing.T) {
	c := open(t, t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		s := &Session{Cache: c}
		slot := make(chan struct{}, 1)
		var did atomic.Int32
		var layer func(n int) *Step[int]
		layer = func(n int) *Step[int] {
			step := newFake(Rootfs, fmt.Sprint(n))
			step.Doing = "has been doing it"
			step.Prepare = func(ctx context.Context) error {
				for below := range n {
					if _, _, err := Remember(ctx, s, layer(below)); err != nil {
						return err
					}
				}
				return nil
			}
			step.Slot = func(ctx context.Context) (func(), error) {
				select {
				case slot <- struct{}{}:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				return sync.OnceFunc(func() { <-slot }), nil
			}
			step.Do = func(context.Context) (int, error) {
				time.Sleep(time.Millisecond)
				did.Add(1)
				return n, nil
			}
			return &step.Step
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				if got, _, err := Remember(ctx, s, layer(n)); err != nil || got != n {
					t.Errorf("layer %d: %d, %v", n, got, err)
				}
			})
		}
		all.Wait()
		if did.Load() != 8 {
			t.Errorf("8 steps were done %d times", did.Load())
		}
	})
}

// TestRememberDamage meets damage while a step is prepared, while it is done, and in the record
// of another one: each is a miss, and made again.
func TestRememberDamage(t *testing.T) {
	c := open(t, t.TempDir())
	var said []string
	s := &Session{
		Cache:   c,
		Damaged: func(kind Kind) { said = append(said, string(kind)) },
		Again:   func(damage error) { said = append(said, damage.Error()) },
	}
	step := newFake(Rootfs, "x")
	met := 0
	damage := func(context.Context) error {
		if met++; met <= 2 {
			return fmt.Errorf("snapshot %d: %w", met, ErrCorrupt)
		}
		return nil
	}
	step.Prepare = damage
	if got, out, err := Remember(t.Context(), s, &step.Step); err != nil || got != 1 || out.How != Done || len(said) != 2 {
		t.Errorf("%d, %+v, %v, %q", got, out, err, said)
	}
	met = -10
	step = newFake(Rootfs, "y")
	step.Do = func(context.Context) (int, error) { step.did++; return 0, ErrCorrupt }
	if _, _, err := Remember(t.Context(), s, &step.Step); !errors.Is(err, ErrCorrupt) || step.did != mostDamage {
		t.Errorf("done %d times, %v", step.did, err)
	}

	said = nil
	step = newFake(Rootfs, "x")
	name := recordName(Rootfs, step.Key())
	if err := c.write(name, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Recall(t.Context(), s, &step.Step); !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	}
	if _, out, err := Remember(t.Context(), s, &step.Step); err != nil || out.How != Done || !slices.Equal(step.misses, []string{ErrCorrupt.Error()}) || len(said) != 1 {
		t.Errorf("%+v, %v, %q, %q", out, err, step.misses, said)
	}

	// A record whose result is of another kind is damaged, too.
	if _, err := c.Put(Rootfs, step.Inputs, "text", 0, Origin{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Recall(t.Context(), s, &step.Step); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// TestUnusable has results that name what is gone.
func TestUnusable(t *testing.T) {
	c := open(t, t.TempDir())
	step := newFake(Rootfs, "x")
	gone := errors.New("its snapshot is gone")
	step.Usable = func(_ context.Context, n int) error {
		if n == 1 {
			return gone
		}
		return nil
	}
	for want := 1; want <= 2; want++ {
		if got, _, err := Remember(t.Context(), &Session{Cache: c}, &step.Step); err != nil || got != want {
			t.Errorf("%d, %v", got, err)
		}
	}
	if got, out, err := Remember(t.Context(), &Session{Cache: c}, &step.Step); err != nil || got != 2 || out.How != Hit || step.misses[1] != gone.Error() {
		t.Errorf("%d, %+v, %v, %q", got, out, err, step.misses)
	}
}

// TestRenew changes the inputs of a step while it waits for its turn, and while it
// begins. It keeps its slot, and is remembered under the key of what it has read; what is
// known of that already serves.
func TestRenew(t *testing.T) {
	c := open(t, t.TempDir())
	s := &Session{Cache: c}
	changed := errors.New("changed")
	file, slots := "1", 0
	var step func(name string) *Step[int]
	step = func(name string) *Step[int] {
		f := newFake(Rootfs, name)
		f.Slot = func(context.Context) (func(), error) {
			slots++
			file = "2"
			return func() { slots-- }, nil
		}
		f.Do = func(context.Context) (int, error) {
			if file != name {
				return 0, changed
			}
			return len(name) + 40, nil
		}
		f.Renew = func(_ context.Context, failure error) (*Step[int], error) {
			if !errors.Is(failure, changed) || slots != 1 {
				t.Errorf("%v, %d slots are taken", failure, slots)
			}
			return step(file), nil
		}
		return &f.Step
	}
	for _, want := range []How{Done, Meanwhile} {
		file = "1"
		got, out, err := Remember(t.Context(), s, step(file))
		if err != nil || got != 41 || out.How != want || out.Key != step("2").Key() || slots != 0 {
			t.Errorf("%d, %+v, %v, %d slots are taken", got, out, err, slots)
		}
	}
	if _, err := c.Get(Rootfs, step("1").Key()); !errors.Is(err, ErrNotFound) {
		t.Error("it is remembered under what it has not read")
	}

	tries := 0
	never := newFake(Labels, "never")
	never.Do = func(context.Context) (int, error) { tries++; return 0, changed }
	never.Renew = func(context.Context, error) (*Step[int], error) { return &never.Step, nil }
	if _, _, err := Remember(t.Context(), s, &never.Step); !errors.Is(err, changed) || tries != mostRenewals+1 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

// TestReady has a process that does nothing.
func TestReady(t *testing.T) {
	c := open(t, t.TempDir())
	ready := false
	s := &Session{Cache: c, Ready: func(context.Context) (bool, error) { return ready, nil }}
	step := newFake(Rootfs, "x")
	if got, out, err := Remember(t.Context(), s, &step.Step); err != nil || got != 0 || out.Known() || step.misses != nil {
		t.Errorf("%d, %+v, %v", got, out, err)
	}
	step.Light = true
	if _, out, err := Remember(t.Context(), s, &step.Step); err != nil || out.How != Done {
		t.Errorf("%+v, %v", out, err)
	}
	if _, out, err := Remember(t.Context(), s, &newFake(Rootfs, "x").Step); err != nil || out.How != Hit {
		t.Errorf("%+v, %v", out, err)
	}
	ready = true
	if _, out, err := Remember(t.Context(), s, &newFake(Rootfs, "y").Step); err != nil || out.How != Done {
		t.Errorf("%+v, %v", out, err)
	}
}

// A fakeRemote has the results of some steps.
type fakeRemote struct {
	cache *Cache
	has   map[Key]int
	asked int
}

func (r *fakeRemote) Fetch(_ context.Context, kind Kind, key Key, in Inputs) bool {
	r.asked++
	result, ok := r.has[key]
	if ok {
		_, err := r.cache.Put(kind, in, result, time.Hour, Origin{Layer: "theirs"})
		ok = err == nil
	}
	return ok
}

// TestRemote asks a remote cache for what is not here, once.
func TestRemote(t *testing.T) {
	c := open(t, t.TempDir())
	remote := &fakeRemote{cache: c, has: map[Key]int{newFake(Rootfs, "x").Key(): 7}}
	s := &Session{Cache: c, Remote: remote}
	for range 2 {
		step := newFake(Rootfs, "x")
		if got, out, err := Remember(t.Context(), s, &step.Step); err != nil || got != 7 || out.How != Hit || out.Record.Origin.Layer != "theirs" || step.did > 0 {
			t.Errorf("%d, %+v, %v", got, out, err)
		}
	}
	if _, out, err := Remember(t.Context(), s, &newFake(Rootfs, "y").Step); err != nil || out.How != Done || remote.asked != 2 {
		t.Errorf("%+v, %v, asked %d times", out, err, remote.asked)
	}
}

// TestKeep keeps what a step makes on the way: what is remembered first stays.
func TestKeep(t *testing.T) {
	c := open(t, t.TempDir())
	s := &Session{Cache: c}
	step := newFake(Pack, "x")
	for _, result := range []int{1, 2} {
		if kept, err := Keep(t.Context(), s, &step.Step, result, time.Second); err != nil || kept != 1 {
			t.Errorf("%d, %v", kept, err)
		}
	}
	if got, out, err := Remember(t.Context(), s, &step.Step); err != nil || got != 1 || out.How != Hit || out.Record.Cost != time.Second {
		t.Errorf("%d, %+v, %v", got, out, err)
	}
}

// TestMemory keeps results elsewhere than in records.
func TestMemory(t *testing.T) {
	c := open(t, t.TempDir())
	s := &Session{Cache: c}
	step := newFake(Base, "x")
	kept := 0
	step.Memory = &Memory[int]{
		Recall: func(context.Context) (int, error) {
			if kept == 0 {
				return 0, ErrNotFound
			}
			return kept, nil
		},
		Keep: func(n int) error { kept = n; return nil },
	}
	for _, want := range []How{Done, Hit} {
		if got, out, err := Remember(t.Context(), s, &step.Step); err != nil || got != 1 || out.How != want || out.Record != nil {
			t.Errorf("%d, %+v, %v", got, out, err)
		}
	}
	if list, err := c.Records(t.Context(), append(Kinds(), Base)...); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestCheckedOnce verifies a step once in a session, and keeps what is remembered.
func TestCheckedOnce(t *testing.T) {
	c := open(t, t.TempDir())
	if _, _, err := Remember(t.Context(), &Session{Cache: c}, &newFake(Labels, "x").Step); err != nil {
		t.Fatal(err)
	}
	s := &Session{Cache: c, Policy: policyOf("verify")}
	for _, want := range []How{Checked, Hit} {
		step := newFake(Labels, "x")
		step.did, step.differ = 5, true
		got, out, err := Remember(t.Context(), s, &step.Step)
		if err != nil || got != 1 || out.How != want || out.Differs != (want == Checked) {
			t.Errorf("%d, %+v, %v", got, out, err)
		}
	}
}
