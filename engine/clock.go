package engine

import (
	"fmt"
	"strconv"
	"time"
)

// A Clock decides the times in images. The zero Clock takes the base image's
// time of creation, or 1980-01-01 when it has none.
type Clock struct {
	Epoch time.Time // from SOURCE_DATE_EPOCH; zero when that is not set
	Now   bool      // wall-clock times, which make no image twice
}

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

// epoch is the latest time that a file of a layer may have: later ones are set
// to it. For wall-clock times it is the zero time, and nothing is.
func (c Clock) epoch(created *time.Time) time.Time {
	switch {
	case c.Now:
		return time.Time{}
	case !c.Epoch.IsZero():
		return c.Epoch
	case created != nil && created.Unix() > 0:
		return created.UTC().Truncate(time.Second)
	default:
		return defaultEpoch
	}
}

func epochText(epoch time.Time) string {
	if epoch.IsZero() {
		return "now"
	}
	return epoch.Format(time.RFC3339)
}

// parseEpochText returns what epochText was given.
func parseEpochText(text string) time.Time {
	epoch, _ := time.Parse(time.RFC3339, text) // "now" is none
	return epoch
}
