package buildcache

import "time"

// A Vouch says who first stated that a record's result is that of its inputs, and
// when. Both survive being passed on by others. A record without one was made by a
// process of this state folder that held no key.
type Vouch struct {
	By   string    `json:"by"` // the id of an ed25519 key, or VouchRegistry
	Time time.Time `json:"time"`
}

// VouchRegistry vouches for records that were taken from a registry without a
// signature: whoever could write to it.
const VouchRegistry = "registry"
