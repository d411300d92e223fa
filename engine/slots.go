package engine

import (
	"container/heap"
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
)

// limits bound what goes on at once, by class, in this order. The holder of a slot may
// wait for one of a later class, never for one of the same or an earlier class.
// buildcache.Remember takes a step's slot when its nested steps are done, and its lock
// when it has the slot: so nobody waits for an earlier class or for another step with a
// lock in hand, and no more locks are open than there are slots. Only a look is held while
// a step is nested, by a layer that has nothing else.
type limits struct {
	looks       *slots // layers that are looked up: their files, records and servers are asked
	steps       *slots // steps that run: --jobs
	connections *slots // images and files that are downloaded
	cores       *slots // what computes: packing, unpacking, digesting
}

// Bounds that no flag sets.
const (
	leastSteps  = 8 // steps wait for disks and servers as much as they compute
	mostPulls   = 6
	looksACore  = 8
	unknownCost = time.Second // of a step that was never done here
)

func newLimits(jobs int) limits {
	cores := runtime.NumCPU()
	if jobs == 0 {
		jobs = max(leastSteps, cores)
	}
	return limits{looks: newSlots(looksACore * cores), steps: newSlots(jobs), connections: newSlots(mostPulls), cores: newSlots(cores)}
}

// slots let so much go on at once. Of those who wait the one whose worth is
// greatest is next, of equal ones the first who came.
type slots struct {
	mu      sync.Mutex
	all     int
	free    int
	coming  int // that are expected
	came    int
	waiting waiters
}

func newSlots(n int) *slots { return &slots{all: n, free: n} }

// choosing is how long all slots stay free, at most, for those who are expected.
const choosing = 50 * time.Millisecond

// expect announces somebody who may want a slot, until it is acquired or dropped. Nobody
// has a slot while none is taken and more are expected than there are, for a moment:
// otherwise those who come first would go first, whatever they are worth.
func (s *slots) expect() *expected {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.coming++
	return &expected{s: s}
}

// An expected is somebody who may want a slot.
type expected struct {
	s  *slots
	is bool // here, or dropped
}

func (e *expected) acquire(ctx context.Context, worth time.Duration) (release func(), err error) {
	return e.s.take(ctx, worth, e.arrive)
}

func (e *expected) drop() {
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	e.arrive()
	e.s.give()
}

func (e *expected) arrive() {
	if !e.is {
		e.is = true
		e.s.coming--
	}
}

// acquire waits for a slot. It is free again when release is called.
func (s *slots) acquire(ctx context.Context, worth time.Duration) (release func(), err error) {
	return s.take(ctx, worth, func() {})
}

// take is acquire of somebody whose arrival is noted, with the lock held.
func (s *slots) take(ctx context.Context, worth time.Duration, arrive func()) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	arrive()
	s.came++
	w := &waiter{worth: worth, came: s.came, turn: make(chan struct{})}
	heap.Push(&s.waiting, w)
	s.give()
	if w.place >= 0 && s.free > 0 { // it is kept free
		defer time.AfterFunc(choosing, s.giveAll).Stop()
	}
	s.mu.Unlock()
	select {
	case <-w.turn:
		return sync.OnceFunc(s.release), nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		if w.place < 0 { // its turn came meanwhile
			s.free++
			s.next()
		} else {
			heap.Remove(&s.waiting, w.place)
		}
		return nil, ctx.Err()
	}
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	s.next()
}

// give gives free slots to those who wait, unless others are worth waiting for.
func (s *slots) give() {
	if s.free < s.all || len(s.waiting)+s.coming <= s.all || s.coming == 0 {
		s.next()
	}
}

func (s *slots) giveAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next()
}

// next gives free slots to those who wait.
func (s *slots) next() {
	for s.free > 0 && len(s.waiting) > 0 {
		s.free--
		close(heap.Pop(&s.waiting).(*waiter).turn)
	}
}

type waiter struct {
	worth time.Duration
	came  int
	place int // in waiters, -1 outside
	turn  chan struct{}
}

// waiters are a container/heap.
type waiters []*waiter

func (w waiters) Len() int { return len(w) }

func (w waiters) Less(i, j int) bool {
	if w[i].worth != w[j].worth {
		return w[i].worth > w[j].worth
	}
	return w[i].came < w[j].came
}

func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].place, w[j].place = i, j
}

// Push is a method of heap.Interface.
func (w *waiters) Push(x any) {
	x.(*waiter).place = len(*w)
	*w = append(*w, x.(*waiter))
}

// Pop is a method of heap.Interface.
func (w *waiters) Pop() any {
	last := (*w)[len(*w)-1]
	last.place = -1
	*w = (*w)[:len(*w)-1]
	return last
}

// paths returns for each layer how long the longest path of steps takes that begins
// with it, by what the steps took when they were last done: a build can take no
// less.
func (b *Builder) paths() map[*layers.Layer]time.Duration {
	paths := make(map[*layers.Layer]time.Duration, len(b.graph.Layers))
	for i := len(b.graph.Layers) - 1; i >= 0; i-- { // each after all that need it
		l := b.graph.Layers[i]
		paths[l] += b.cost(l)
		for _, need := range b.graph.Needs(l) {
			paths[need] = max(paths[need], paths[l])
		}
	}
	return paths
}

// cost is how long a layer's step took when it was last done.
func (b *Builder) cost(l *layers.Layer) time.Duration {
	latest, err := b.Cache.Latest(l.File.Path, l.Name)
	if err != nil || latest.Keys[buildcache.Rootfs] == "" {
		return unknownCost
	}
	record, err := b.Cache.Get(buildcache.Rootfs, latest.Keys[buildcache.Rootfs])
	if err != nil {
		return unknownCost
	}
	return record.Cost
}
