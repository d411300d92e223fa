package buildcache

import (
	"context"

	"github.com/layerbuild/layerbuild/locks"
)

// Lock waits until nobody else works on this key, be it another process or another
// layer of this one, and then has it until Unlock. The caller looks the key up again,
// since the other may have made it. Doing is what the work is, as in locks.Wait.
func (c *Cache) Lock(ctx context.Context, key Key, doing string) (*locks.Lock, error) {
	return locks.Take(ctx, c.path("locks", string(key)), doing)
}
