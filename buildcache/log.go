package buildcache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/layerbuild/layerbuild/statedir"
)

// keptLogs is how many builds' logs are kept.
const keptLogs = 50

func logName(number int) string {
	return filepath.Join("builds", strconv.Itoa(number)+".log")
}

// CreateLog begins the log of a build, and removes the one that is too old by
// now. Of all files of the state folder only logs grow; what has been written of
// one stays when its build is killed.
func (c *Cache) CreateLog(number int) (*os.File, error) {
	_ = os.Remove(c.path(logName(number - keptLogs)))
	file, err := os.OpenFile(c.path(logName(number)), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the build's log: %w", err)
	}
	return file, nil
}

// Logs returns the numbers of the builds whose logs are kept, in their order.
func (c *Cache) Logs() ([]int, error) {
	entries, err := os.ReadDir(c.path("builds"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".log")
		if n, err := strconv.Atoi(name); ok && err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// OpenLog opens the log of a build. The error is ErrNotFound where it is not kept.
func (c *Cache) OpenLog(number int) (*os.File, error) {
	file, err := statedir.Open(c.path(logName(number)))
	if errors.Is(err, fs.ErrNotExist) || statedir.Irregular(err) {
		return nil, ErrNotFound
	}
	return file, err
}
