package build

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/imports"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/overlay"
)

// A Rule says what is removed from a state folder, and when it is enough. The
// zero Rule removes all that no last build of a layer has and nobody uses.
type Rule struct {
	All     bool     // also what the last builds have
	Filters []Filter // only what matches all of them

	KeepDuration time.Duration // nothing that was used within this time

	// Limits. Without any, all that the rule names is removed; otherwise no more
	// than it takes to be below each of them. Zero is no limit.
	MaxUsed   Size  // what the state folder may take
	MaxInodes int64 // the files and folders in it
	MinFree   Size  // what must be free on its disk

	// Reserved is what the state folder may always take: it wins over the limits.
	// Alone it is the limit.
	Reserved Size
}

// A Size is a number of bytes, or a share of the disk.
type Size struct {
	Bytes   int64
	Percent int // of the disk, if not zero
}

func (s Size) of(disk int64) int64 {
	if s.Percent > 0 {
		return disk / 100 * int64(s.Percent)
	}
	return s.Bytes
}

// A Removed is an item that was removed, or would be.
type Removed struct {
	Item *Item
	Rule string // what made it go, in words
}

// PruneOptions say what Prune removes.
type PruneOptions struct {
	StateDir string
	Rules    []Rule // each in turn
	By       string // the command, for the tombstones
	DryRun   bool
	Removed  func(Removed) // is told of each
}

// Prune removes what the rules say, the least recently and least often used
// first; never what a process uses, and never what something else stands on.
// Cancelled, it stops at once, and what is left is whole.
func Prune(ctx context.Context, o PruneOptions) error {
	r, err := openExisting(ctx, o.StateDir)
	if r == nil || err != nil {
		return err
	}
	defer r.close()
	return r.prune(ctx, o)
}

// openExisting opens a state folder to look at all that is in it, or to remove it;
// nil if there is none.
func openExisting(ctx context.Context, state string) (*rooms, error) {
	if _, err := os.Lstat(state); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := EnterState(state); err != nil {
		return nil, err
	}
	return openRooms(ctx, state, imports.Options{})
}

func (r *rooms) prune(ctx context.Context, o PruneOptions) error {
	v, err := r.take(ctx)
	if err != nil {
		return err
	}
	d, err := diskOf(r.roots) // where most is, and can be made room
	if err != nil {
		return err
	}
	if slices.ContainsFunc(o.Rules, func(r Rule) bool { return !r.All }) {
		v.markCurrent()
	}
	p := &pruner{PruneOptions: o, inventory: v, disk: d, now: time.Now()}
	p.total, p.inodes = v.total()
	for _, rule := range o.Rules {
		if err = p.apply(ctx, rule); err != nil {
			break
		}
	}
	if len(p.gone) > 0 && !o.DryRun { // on a full disk, the next prune does it
		_ = r.cache.ForgetUsage(p.gone)
		_ = r.cache.RemoveTombstones(p.now.Add(-tombstoneAge))
	}
	return err
}

// tombstoneAge is how long a miss can still say EVICTED.
const tombstoneAge = 90 * 24 * time.Hour

func (v *inventory) total() (bytes, inodes int64) {
	bytes, inodes = v.other.Size, v.other.Inodes
	for _, i := range v.items {
		bytes += i.Bytes()
		inodes += i.Inodes
	}
	return bytes, inodes
}

// disk is what is known of the state folder's filesystem, in bytes.
type disk struct{ size, free int64 }

func diskOf(path string) (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return disk{}, fmt.Errorf("asking how much is free in %s: %w", path, err)
	}
	return disk{int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize}, nil
}

// A pruner removes items of an inventory.
type pruner struct {
	PruneOptions
	*inventory
	disk          disk
	now           time.Time
	total, inodes int64
	gone          []string // the ids of what was removed
}

// need says which limit of a rule is exceeded, in words; "" if none is.
func (p *pruner) need(r Rule) string {
	used, free, reserved := r.MaxUsed.of(p.disk.size), r.MinFree.of(p.disk.size), r.Reserved.of(p.disk.size)
	limited := used > 0 || free > 0 || r.MaxInodes > 0
	switch {
	case reserved > 0 && p.total <= reserved:
		return ""
	case reserved > 0 && !limited:
		return fmt.Sprintf("more than %s are used", bytesText(reserved))
	case !limited:
		return "nothing needs it"
	case used > 0 && p.total > used:
		return fmt.Sprintf("more than %s are used", bytesText(used))
	case r.MaxInodes > 0 && p.inodes > r.MaxInodes:
		return fmt.Sprintf("there are more than %d files and folders", r.MaxInodes)
	case free > 0 && p.disk.free < free:
		return fmt.Sprintf("less than %s are free", bytesText(free))
	}
	return ""
}

// apply removes what one rule says.
func (p *pruner) apply(ctx context.Context, r Rule) error {
	if p.need(r) == "" {
		return nil
	}
	if p.DryRun || slices.ContainsFunc(r.Filters, Filter.asksInUse) {
		if err := p.lookInUse(ctx); err != nil {
			return err
		}
	}
	queue := p.candidates(r)
	for queue.Len() > 0 {
		why := p.need(r)
		if why == "" {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		i := heap.Pop(queue).(*candidate).Item
		removed, err := p.removeItem(ctx, i, why)
		if err != nil {
			return err
		}
		if removed && i.parent != nil {
			queue.release(i.parent)
		}
	}
	return nil
}

// removeItem removes one item, unless somebody uses it.
func (p *pruner) removeItem(ctx context.Context, i *Item, why string) (bool, error) {
	if p.DryRun && i.InUse {
		return false, nil
	}
	if !p.DryRun {
		if p.isInUse(i) {
			return false, nil
		}
		switch err := p.takeAway(ctx, i, why); {
		case errors.Is(err, locks.ErrHeld):
			return false, nil // somebody came first
		case err != nil && !errors.Is(err, overlay.ErrNotFound):
			return false, fmt.Errorf("removing %s: %w", i.ID, err)
		}
	}
	i.gone = true
	freed := i.Size
	for _, b := range i.blobs {
		if b.users--; b.users == 0 {
			freed += b.Disk
		}
	}
	p.total, p.inodes, p.disk.free = p.total-freed, p.inodes-i.Inodes, p.disk.free+freed
	p.gone = append(p.gone, i.usageID)
	if p.Removed != nil {
		p.Removed(Removed{i, why})
	}
	return true, nil
}

// takeAway writes an item's tombstones, and removes what refers to something before
// what it refers to.
func (p *pruner) takeAway(ctx context.Context, i *Item, why string) error {
	if i.grave != "" {
		// Without one, as on a full disk, a miss will be explained less well.
		_ = p.cache.Bury(buildcache.Tombstone{Kind: i.grave, ID: i.usageID, When: p.now.UTC().Truncate(time.Second), By: p.By, Rule: why})
	}
	if i.remove != nil {
		if err := i.remove(ctx); err != nil {
			p.cache.Exhume(i.grave, i.usageID)
			return err
		}
	}
	for _, b := range i.blobs {
		if b.users > 1 {
			continue // another item has it, too
		}
		if err := p.blobs.Remove(b.Digest); err != nil && !errors.Is(err, locks.ErrHeld) {
			return err
		}
	}
	return nil
}

// A candidate is an item that a rule may remove, and its ranks.
type candidate struct {
	*Item
	rank float64
}

// A queue has the candidates that nothing stands on, the one to go first on top.
type queue struct {
	ready []*candidate
	all   map[*Item]*candidate
}

func (q *queue) Len() int { return len(q.ready) }
func (q *queue) Less(a, b int) bool {
	if x, y := q.ready[a].rank, q.ready[b].rank; x != y {
		return x < y
	}
	return q.ready[a].ID < q.ready[b].ID
}
func (q *queue) Swap(a, b int) { q.ready[a], q.ready[b] = q.ready[b], q.ready[a] }
func (q *queue) Push(c any)    { q.ready = append(q.ready, c.(*candidate)) }
func (q *queue) Pop() any {
	last := q.ready[len(q.ready)-1]
	q.ready = q.ready[:len(q.ready)-1]
	return last
}

// release says that something that stood on an item is gone.
func (q *queue) release(i *Item) {
	i.Holds--
	if c := q.all[i]; c != nil && i.Holds == 0 {
		heap.Push(q, c)
	}
}

// candidates returns what a rule may remove. An item's rank is its place in the
// order of last use, and its place in the order of how often it was used, both
// between 0 and 1, added up.
func (p *pruner) candidates(r Rule) *queue {
	q := &queue{all: map[*Item]*candidate{}}
	var list []*candidate
	for _, i := range p.items {
		if i.gone || (i.current && !r.All) || p.now.Sub(i.LastUsed) < r.KeepDuration || !matches(r.Filters, i, p.now) {
			continue
		}
		list = append(list, &candidate{Item: i})
	}
	addRanks(list, func(c *candidate) int64 { return c.LastUsed.Unix() })
	addRanks(list, func(c *candidate) int64 { return int64(c.Times) })
	for _, c := range list {
		q.all[c.Item] = c
		if c.Holds == 0 {
			q.ready = append(q.ready, c)
		}
	}
	heap.Init(q)
	return q
}

func addRanks(list []*candidate, by func(*candidate) int64) {
	values := make([]int64, len(list))
	for n, c := range list {
		values[n] = by(c)
	}
	places := slices.Clone(values)
	slices.Sort(places)
	places = slices.Compact(places)
	for n, c := range list {
		if len(places) > 1 {
			place, _ := slices.BinarySearch(places, values[n])
			c.rank += float64(place) / float64(len(places)-1)
		}
	}
}
