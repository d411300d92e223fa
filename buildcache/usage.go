package buildcache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/layerbuild/layerbuild/locks"
	"github.com/layerbuild/layerbuild/statedir"
)

// How often things of the state folder are used is counted in two files of
// lines, which may be lost or damaged without harm: a line that makes no sense
// counts as not there.
//
//	usage/log     TIME ID ID ...   appended at the end of each build, in one write
//	usage/totals  ID TIMES LAST    what the log held when it last grew too long
const (
	usageLog    = "usage/log"
	usageTotals = "usage/totals"

	// usageLimit is the size at which the log is added to the totals: some
	// thousand builds. It bounds what reading it costs, which is 10 ms.
	usageLimit = 1 << 20
)

// Usage is how often something was used, as far as that is known.
type Usage struct {
	Times int
	Last  time.Time // of the last use, to the second
}

// Used notes that a build has used these things, each an id without a space.
// It is not synced. To a build that found all in the cache it is one write.
func (c *Cache) Used(now time.Time, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	file, err := c.lockUsage(locks.Shared)
	if err != nil {
		return err
	}
	line := strconv.AppendInt(nil, now.Unix(), 10)
	for _, id := range ids {
		line = append(append(line, ' '), id...)
	}
	_, err = file.Write(append(line, '\n')) // O_APPEND: whole, or with its end missing
	info, statErr := file.Stat()
	_ = file.Close()
	if err == nil && statErr == nil && info.Size() > usageLimit {
		err = c.foldUsage()
	}
	return err
}

// lockUsage opens the log: shared to append, exclusive to empty it.
func (c *Cache) lockUsage(how int) (*os.File, error) {
	path := c.path(usageLog)
	if err := c.dir.MakeWay(path); err != nil {
		return nil, err
	}
	return locks.Open(context.Background(), path, os.O_CREATE|os.O_RDWR|os.O_APPEND, how, "has been counting uses")
}

// foldUsage adds the log to the totals and empties it.
func (c *Cache) foldUsage() error {
	log, err := c.lockUsage(locks.Exclusive)
	if err != nil {
		return err
	}
	defer log.Close()
	if info, err := log.Stat(); err != nil || info.Size() <= usageLimit {
		return err // somebody else was faster
	}
	return c.rewriteUsage(log, nil)
}

// rewriteUsage makes totals of all that is known, but for what is gone. The
// caller has the log exclusive. If it is killed before the log is empty, uses
// count twice, which is no harm.
func (c *Cache) rewriteUsage(log *os.File, gone []string) error {
	all, err := c.Usage()
	if err != nil {
		return err
	}
	for _, id := range gone {
		delete(all, id)
	}
	var text bytes.Buffer
	for _, id := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s %d %d\n", id, all[id].Times, all[id].Last.Unix())
	}
	if err := c.write(usageTotals, text.Bytes()); err != nil {
		return err
	}
	return log.Truncate(0)
}

// Usage returns the usage of all that was used. Things that are gone are there
// too, until ForgetUsage.
func (c *Cache) Usage() (map[string]Usage, error) {
	all := map[string]Usage{}
	err := c.usageLines(usageTotals, func(words [][]byte) {
		if len(words) == 3 {
			times, err1 := strconv.Atoi(string(words[1]))
			last, err2 := strconv.ParseInt(string(words[2]), 10, 64)
			if err1 == nil && err2 == nil && times > 0 {
				all[string(words[0])] = Usage{times, time.Unix(last, 0)}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return all, c.usageLines(usageLog, func(words [][]byte) {
		seconds, err := strconv.ParseInt(string(words[0]), 10, 64)
		if err != nil {
			return
		}
		at := time.Unix(seconds, 0)
		for _, id := range words[1:] {
			u := all[string(id)]
			u.Times++
			if at.After(u.Last) {
				u.Last = at
			}
			all[string(id)] = u
		}
	})
}

// usageLines calls do with the words of each line of a file that has any.
func (c *Cache) usageLines(name string, do func(words [][]byte)) error {
	file, err := statedir.Open(c.path(name))
	if errors.Is(err, fs.ErrNotExist) || statedir.Irregular(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewReaderSize(file, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if words := bytes.Fields(line); len(words) > 0 && err == nil {
			do(words)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ForgetUsage forgets what was used but is gone.
func (c *Cache) ForgetUsage(gone []string) error {
	log, err := c.lockUsage(locks.Exclusive)
	if err != nil {
		return err
	}
	defer log.Close()
	return c.rewriteUsage(log, gone)
}
