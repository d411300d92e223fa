package engine

import (
	"fmt"
	"strconv"
	"time"
)

// A Clock decides the times in images. Files are clamped to the time of creation of the
// image that a chain of layers starts from, or 1980-01-01 if it has none, and images are
// created then unless there is an Epoch.
type Clock struct {
	Epoch time.Time // from SOURCE_DATE_EPOCH: when images are created; zero when that is not set
	Seen  bool      // scripts see Epoch, which thereby is an input, instead of what files are clamped to
	Now   bool      // wall-clock times, which make no image twice
}

// epochVariable is the variable of https://reproducible-builds.org/specs/source-date-epoch/.
const epochVariable = "SOURCE_DATE_EPOCH"

// ParseEpoch reads SOURCE_DATE_EPOCH, seconds since 1970 as
// https://reproducible-builds.org/specs/source-date-epoch/ defines it; "" is
// the zero time.
func ParseEpoch(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil || seconds < 0 || seconds > maxEpoch {
		return time.Time{}, fmt.Errorf("invalid SOURCE_DATE_EPOCH %q: it should be a number of seconds since 1970", s)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// maxEpoch is the end of the year 9999, the last that RFC 3339 can write.
const maxEpoch = 253402300799

// defaultEpoch is the first instant that zip archives and FAT can hold.
var defaultEpoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// clampEpoch is the latest time that a file of a layer may have, which starts from an image
// that was created then; later ones are set to it. One that says it was created in the
// future would clamp nothing, and so says nothing.
func clampEpoch(created *time.Time) time.Time {
	if created != nil && created.Unix() > 0 && !created.After(time.Now()) {
		return created.UTC().Truncate(time.Second)
	}
	return defaultEpoch
}

// clamp is the clamp epoch of a layer on a base. For wall-clock times it is the zero time,
// and nothing is clamped.
func (c Clock) clamp(base *base) time.Time {
	if c.Now {
		return time.Time{}
	}
	return base.epoch
}

// created is when an image says that it was created, which was made of files that are
// clamped to an epoch.
func (c Clock) created(epoch time.Time) time.Time {
	if c.Epoch.IsZero() {
		return epoch
	}
	return c.Epoch
}

func epochText(epoch time.Time) string {
	if epoch.IsZero() {
		return "now"
	}
	return epoch.Format(time.RFC3339)
}
