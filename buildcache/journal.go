package buildcache

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/layerbuild/layerbuild/statedir"
)

// keptJournals is how many builds are remembered.
const keptJournals = 100

// sweepJournals is how often the oldest are removed: each so many builds.
const sweepJournals = 16

// A journal is the file of one build. It is not synced, and not made in one
// move: the checksum tells whether it is whole, and no build depends on it.
type journal struct {
	Sum     string          `json:"sha256"` // of the report's bytes
	Version int             `json:"version"`
	Report  json.RawMessage `json:"report"`
}

func (c *Cache) journalPath(number int) string {
	return c.path("builds", strconv.Itoa(number)+".json")
}

// NextBuild gives a build its number, which no other build gets.
func (c *Cache) NextBuild() (int, error) {
	numbers, err := c.Builds()
	if err != nil {
		return 0, err
	}
	number := 1
	if len(numbers) > 0 {
		number = numbers[len(numbers)-1] + 1
	} else if err := os.MkdirAll(c.path("builds"), 0o700); err != nil {
		return 0, err
	}
	for ; ; number++ { // several processes begin at once
		file, err := os.OpenFile(c.journalPath(number), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			return number, file.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return 0, err
		}
	}
}

// DropBuild gives a number back, of a build that is not to be told of.
func (c *Cache) DropBuild(number int) { _ = os.Remove(c.journalPath(number)) }

// PutJournal keeps the report of a build, which is JSON, and forgets the oldest builds.
func (c *Cache) PutJournal(number int, report []byte) error {
	text := fmt.Appendf(nil, "{\"sha256\":\"%x\",\"version\":%d,\"report\":%s}\n", sha256.Sum256(report), FormatVersion, report)
	if err := os.WriteFile(c.journalPath(number), text, 0o600); err != nil {
		return fmt.Errorf("keeping the journal of the build: %w", err)
	}
	if number%sweepJournals != 0 {
		return nil
	}
	numbers, err := c.Builds()
	for _, old := range numbers[:max(0, len(numbers)-keptJournals)] {
		_ = os.Remove(c.journalPath(old))
	}
	return err
}

// Builds returns the numbers of the builds that are remembered, in their order.
func (c *Cache) Builds() ([]int, error) {
	dir, err := os.Open(c.path("builds"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(0)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, name := range names {
		name, ok := strings.CutSuffix(name, ".json")
		if n, err := strconv.Atoi(name); ok && err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Build returns the report of a build, or ErrNotFound, or ErrCorrupt if it is
// damaged or the build has not ended.
func (c *Cache) Build(number int) (json.RawMessage, error) {
	data, err := statedir.ReadFile(c.journalPath(number))
	if statedir.Irregular(err) {
		return nil, ErrCorrupt
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var j journal
	if err := json.Unmarshal(data, &j); err != nil || j.Version != FormatVersion || fmt.Sprintf("%x", sha256.Sum256(j.Report)) != j.Sum {
		return nil, ErrCorrupt
	}
	return j.Report, nil
}

// jot makes a sealed file that may be lost in a power cut, but is never half there.
func (c *Cache) jot(name string, v any) error {
	data, err := seal(v)
	if err != nil {
		return err
	}
	return c.dir.Jot(c.path(name), data)
}
