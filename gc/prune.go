package gc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/overlay"
	"github.com/layerbuild/layerbuild/stores"
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
	Removed  func(Removed) // is called with each
}

// Prune removes what the rules name, the least recently and least often used first. It never removes
// what a process uses, or what something else stands on. When ctx ends, Prune stops at once, and what
// is left is whole.
func Prune(ctx context.Context, o PruneOptions) error {
	set, err := stores.OpenExisting(ctx, o.StateDir)
	if set == nil || err != nil {
		return err
	}
	defer set.Close()
	return prune(ctx, set, o)
}

func prune(ctx context.Context, set *stores.Set, o PruneOptions) error {
	v, err := take(ctx, set)
	if err != nil {
		return err
	}
	defer v.listing.Close()
	d, err := diskOf(set.Roots) // where most is, and can be made room
	if err != nil {
		return err
	}
	if slices.ContainsFunc(o.Rules, func(r Rule) bool { return !r.All }) {
		v.markKept()
	}
	p := &pruner{PruneOptions: o, inventory: v, disk: d, now: time.Now()}
	p.total, p.inodes = v.total()
	for _, rule := range o.Rules {
		if err = p.apply(ctx, rule); err != nil {
			break
		}
	}
	if len(p.gone) > 0 { // on a full disk, the next prune does it
		_ = set.Cache.ForgetUsage(p.gone)
		_ = set.Sources.DropHints()
		_ = set.Cache.RemoveTombstones(p.now.Add(-tombstoneAge))
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

// goal returns what says which limit of a rule is exceeded, in words; "" if none is.
func (p *pruner) goal(r Rule) (need func() string) {
	used, free, reserved := r.MaxUsed.of(p.disk.size), r.MinFree.of(p.disk.size), r.Reserved.of(p.disk.size)
	limited := used > 0 || free > 0 || r.MaxInodes > 0
	tooMuch := fmt.Sprintf("more than %s are used", units.HumanSize(float64(cmp.Or(used, reserved))))
	tooMany := fmt.Sprintf("there are more than %d files and folders", r.MaxInodes)
	tooFull := fmt.Sprintf("less than %s are free", units.HumanSize(float64(free)))
	return func() string {
		switch {
		case reserved > 0 && p.total <= reserved:
			return ""
		case reserved > 0 && !limited:
			return tooMuch
		case !limited:
			return "nothing needs it"
		case used > 0 && p.total > used:
			return tooMuch
		case r.MaxInodes > 0 && p.inodes > r.MaxInodes:
			return tooMany
		case free > 0 && p.disk.free < free:
			return tooFull
		}
		return ""
	}
}

// apply removes what one rule says.
func (p *pruner) apply(ctx context.Context, r Rule) error {
	need := p.goal(r)
	if need() == "" {
		return nil
	}
	if p.DryRun || slices.ContainsFunc(r.Filters, Filter.asksInUse) {
		if err := p.lookInUse(ctx); err != nil {
			return err
		}
	}
	for n, c := range p.candidates(r) {
		// What it stands on may have had its turn already, and had to wait for this.
		for i := c.Item; i != nil && i.Holds == 0 && i.turn > 0 && i.turn <= n+1; i = i.parent {
			why := need()
			if why == "" {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			removed, err := p.removeItem(ctx, i, why)
			if err != nil {
				return err
			}
			if !removed {
				break
			}
			if i.parent != nil {
				i.parent.Holds--
			}
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
		if p.isInUse(i, nil) {
			return false, nil
		}
		switch err := p.takeAway(ctx, i, why); {
		case errors.Is(err, locks.ErrHeld):
			return false, nil // somebody came first
		case err != nil && !errors.Is(err, overlay.ErrNotFound):
			return false, fmt.Errorf("removing %s: %w", i.ID, err)
		}
		p.gone = append(p.gone, i.usageID)
	}
	i.gone = true
	freed := i.Size
	for _, b := range i.blobs {
		if b.users--; b.users == 0 {
			freed += b.Disk
		}
	}
	p.total, p.inodes, p.disk.free = p.total-freed, p.inodes-i.Inodes, p.disk.free+freed
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
		_ = p.Cache.Bury(buildcache.Tombstone{Kind: i.grave, ID: i.usageID, When: p.now.UTC().Truncate(time.Second), By: p.By, Rule: why})
	}
	if i.holding != nil {
		if err := i.holding.remove(ctx, p.inventory); err != nil {
			p.Cache.Exhume(i.grave, i.usageID)
			return err
		}
	}
	for _, b := range i.blobs {
		if b.users > 1 {
			continue // another item has it, too
		}
		if err := p.Blobs.Remove(b.Digest); err != nil && !errors.Is(err, locks.ErrHeld) {
			return err
		}
	}
	return nil
}

// candidates returns what a rule may remove, the one to go first first. An item's
// rank is its place in the order of last use, and its place in the order of how often
// it was used, both between 0 and 1, added up.
func (p *pruner) candidates(r Rule) []candidate {
	var list []candidate
	for n, i := range p.items {
		i.turn = 0
		if i.gone || (i.Kept && !r.All) || p.now.Sub(i.LastUsed) < r.KeepDuration || !matches(r.Filters, i, p.now) {
			continue
		}
		list = append(list, candidate{Item: i, place: n})
	}
	addRanks(list, func(i *Item) int64 { return i.LastUsed.Unix() })
	addRanks(list, func(i *Item) int64 { return int64(i.Times) })
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.place, b.place))
	})
	for n, c := range list {
		c.turn = n + 1
	}
	return list
}

// A candidate is an item that a rule may remove.
type candidate struct {
	*Item
	rank  float64
	place int // in the inventory
}

func addRanks(list []candidate, by func(*Item) int64) {
	values := make([]int64, len(list))
	for n, c := range list {
		values[n] = by(c.Item)
	}
	places := slices.Clone(values)
	slices.Sort(places)
	places = slices.Compact(places)
	for n := range list {
		if len(places) > 1 {
			place, _ := slices.BinarySearch(places, values[n])
			list[n].rank += float64(place) / float64(len(places)-1)
		}
	}
}
