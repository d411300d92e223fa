package buildcache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keptJournals is how many builds are remembered.
const keptJournals = 100

// A Journal is what is kept of one build.
type Journal struct {
	Version int             `json:"version"`
	Number  int             `json:"number"` // builds of a state folder count from 1
	Report  json.RawMessage `json:"report"` // what the engine tells of the build
}

func journalName(number int) string {
	return filepath.Join("builds", strconv.Itoa(number)+".json")
}

// NextBuild gives a build its number, which no other build has or had.
func (c *Cache) NextBuild() (int, error) {
	if err := os.MkdirAll(c.path("builds"), 0o700); err != nil {
		return 0, err
	}
	file, err := os.OpenFile(c.path("builds", "last"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return 0, err
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return 0, err
	}
	last, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil { // it was cut, or is not there
		numbers, err := c.Builds()
		if err != nil {
			return 0, err
		}
		last = slices.Max(append(numbers, 0))
	}
	_, err = file.WriteAt(fmt.Appendf(nil, "%10d\n", last+1), 0)
	return last + 1, err
}

// PutJournal keeps what is told of a build, and forgets the oldest builds. It is
// not synced, since no build depends on it.
func (c *Cache) PutJournal(number int, report any) error {
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	if err := c.jot(journalName(number), Journal{FormatVersion, number, raw}); err != nil {
		return fmt.Errorf("keeping the journal of the build: %w", err)
	}
	numbers, err := c.Builds()
	for i := range max(0, len(numbers)-keptJournals) {
		_ = os.Remove(c.path(journalName(numbers[i])))
	}
	return err
}

// Builds returns the numbers of the builds that are remembered, in their order.
func (c *Cache) Builds() ([]int, error) {
	entries, err := os.ReadDir(c.path("builds"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".json")
		if n, err := strconv.Atoi(name); ok && err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Journal returns what was told of a build, or ErrNotFound, or ErrCorrupt.
func (c *Cache) Journal(number int) (*Journal, error) {
	var j Journal
	if err := c.read(journalName(number), &j); err != nil {
		return nil, err
	}
	if j.Number != number {
		return nil, ErrCorrupt
	}
	return &j, nil
}

// jot makes a sealed file that may be lost in a power cut, but is never half there.
func (c *Cache) jot(name string, v any) error {
	data, err := seal(v)
	if err != nil {
		return err
	}
	path := c.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(c.path("tmp"), "jot-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
