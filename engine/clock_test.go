package engine

import (
	"testing"
	"time"
)

// What a base says of its creation is the latest time of a file, if it has passed: otherwise
// files would keep the time of the build.
func TestEpochOfBase(t *testing.T) {
	past := time.Date(2020, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	for _, test := range []struct {
		created, want time.Time
	}{
		{past, time.Date(2020, 1, 2, 2, 4, 5, 0, time.UTC)},
		{time.Unix(0, 0), defaultEpoch},
		{time.Unix(-1, 0), defaultEpoch},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), defaultEpoch},
		{time.Now().Add(time.Hour), defaultEpoch},
	} {
		if got := clampEpoch(&test.created); !got.Equal(test.want) {
			t.Errorf("created %s: %s, want %s", test.created, got, test.want)
		}
	}
	if got := clampEpoch(nil); got != defaultEpoch {
		t.Error(got)
	}
}
