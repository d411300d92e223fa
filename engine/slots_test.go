package engine

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Of those who wait the one worth most is next, of equal ones the first.
func TestSlotsOrder(t *testing.T) {
	s := newSlots(1)
	first, err := s.acquire(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []time.Duration
	var all sync.WaitGroup
	for i, worth := range []time.Duration{3, 1, 4, 1, 5} {
		all.Go(func() {
			release, err := s.acquire(t.Context(), worth)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, worth)
			mu.Unlock()
			release()
		})
		waitFor(s, i+1)
	}
	first()
	first() // twice is once
	all.Wait()
	if !slices.Equal(order, []time.Duration{5, 4, 3, 1, 1}) {
		t.Errorf("the order is %v", order)
	}
	if s.free != 1 {
		t.Errorf("%d slots are free", s.free)
	}
}

// The first one does not take the only slot from a better one who is expected; but nobody
// waits long for one who does not come.
func TestSlotsExpect(t *testing.T) {
	for _, test := range []struct {
		slots  int
		late   time.Duration // when the better one comes; never if negative
		order  []string
		waited time.Duration // by the first
	}{
		{1, choosing / 2, []string{"better", "first"}, choosing / 2},
		{1, 2 * choosing, []string{"first", "better"}, choosing},
		{1, -1, []string{"first"}, choosing / 4},
		{2, 2 * choosing, []string{"first", "better"}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlots(test.slots)
			var order []string
			var all sync.WaitGroup
			take := func(who string, worth, late, waited time.Duration) {
				e := s.expect()
				all.Go(func() {
					defer e.drop()
					if late < 0 {
						time.Sleep(choosing / 4)
						return
					}
					time.Sleep(late)
					begun := time.Now()
					release, err := e.acquire(t.Context(), worth)
					if err != nil {
						t.Error(err)
						return
					}
					if got := time.Since(begun); waited >= 0 && got != waited {
						t.Errorf("%+v: %s waited for %s", test, who, got)
					}
					order = append(order, who)
					release()
				})
			}
			take("first", 1, 0, test.waited)
			take("better", 2, test.late, -1)
			all.Wait()
			if !slices.Equal(order, test.order) || s.free != test.slots || s.coming != 0 {
				t.Errorf("%+v: the order is %v, %d slots are free, %d come", test, order, s.free, s.coming)
			}
		})
	}
}

func waitFor(s *slots, waiting int) {
	for {
		s.mu.Lock()
		n := len(s.waiting)
		s.mu.Unlock()
		if n == waiting {
			return
		}
		time.Sleep(time.Microsecond)
	}
}

// Who gives up loses no slot, whether its turn has come or not.
func TestSlotsCancelled(t *testing.T) {
	s := newSlots(2)
	for range 200 {
		a, _ := s.acquire(t.Context(), 0)
		b, _ := s.acquire(t.Context(), 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			release, err := s.acquire(ctx, 1)
			if err == nil {
				release()
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}()
		go cancel()
		a()
		b()
		<-done
	}
	if s.free != 2 || len(s.waiting) != 0 {
		t.Errorf("%d slots are free, %d wait", s.free, len(s.waiting))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.acquire(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a slot for nobody: %v", err)
	}
}

func TestFailedError(t *testing.T) {
	err := &FailedError{Causes: []error{errors.New("one"), errors.New("two"), errors.New("three")}, Skipped: []string{"x"}}
	want := "3 layers failed, and 1 layer needs what failed: x\nthree\ntwo\nwhat failed first:\none"
	if err.Error() != want {
		t.Errorf("%s", err)
	}
}

// What comes out does not depend on how much goes on at once, nor on the order.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(3) {
		p := newProject(rand.New(rand.NewPCG(seed, 7)))
		dir := t.TempDir()
		p.write(t, dir)
		one := buildWith(t, dir, t.TempDir(), Options{Jobs: 1})
		many := buildWith(t, dir, t.TempDir(), Options{Jobs: 16})
		if !maps.Equal(one.manifests, many.manifests) || len(one.ran) != len(many.ran) {
			t.Errorf("with one job %v, with 16 %v\n%s", one.manifests, many.manifests, p)
		}
	}
}
