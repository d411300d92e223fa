package gc

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/stores"
)

// Usage is what a state folder takes on disk.
type Usage struct {
	Items []*Item `json:"items"` // those that match, the largest first
	Other Other   `json:"other"` // what the state folder needs for itself

	Size        int64 `json:"size"`        // bytes of these items and Other
	Inodes      int64 `json:"inodes"`      // their files and folders
	Reclaimable int64 `json:"reclaimable"` // bytes of the items that no process uses
	Kept        int64 `json:"kept"`        // of these, what the last builds use: prune keeps it, unless --all
}

// DiskUsage measures a state folder. What is said of each item is what was noted
// when it was made; the files of snapshots are not looked at. With filters, Other
// is left out.
func DiskUsage(ctx context.Context, state string, filters []Filter) (*Usage, error) {
	set, err := stores.OpenExisting(ctx, state)
	if set == nil || err != nil {
		return &Usage{Items: []*Item{}}, err
	}
	defer set.Close()
	v, err := take(ctx, set)
	if err != nil {
		return nil, err
	}
	if err := v.lookInUse(ctx); err != nil {
		return nil, err
	}
	v.markKept()
	u := &Usage{Items: []*Item{}}
	if len(filters) == 0 {
		u.Other = v.other
	}
	u.Size, u.Inodes = u.Other.Size, u.Other.Inodes
	now := time.Now()
	for _, i := range v.items {
		if !matches(filters, i, now) {
			continue
		}
		u.Items = append(u.Items, i)
		u.Size += i.Bytes()
		u.Inodes += i.Inodes
		if !i.InUse {
			u.Reclaimable += i.Bytes()
		}
		if !i.InUse && i.Kept {
			u.Kept += i.Bytes()
		}
	}
	slices.SortFunc(u.Items, func(a, b *Item) int {
		if a.Bytes() != b.Bytes() {
			return int(min(max(b.Bytes()-a.Bytes(), -1), 1))
		}
		return strings.Compare(a.ID, b.ID)
	})
	return u, nil
}
