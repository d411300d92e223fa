package build

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// lockedInodes returns the inodes of all files, on any device, that a process
// holds a flock on (proc_locks(5)). To ask once is faster than to try each lock.
// Processes in other pid namespaces are not seen, so this serves only to tell
// people what is in use: who removes tries the lock.
func lockedInodes() (map[uint64]bool, error) {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	locked := map[uint64]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 6 || words[1] != "FLOCK" {
			continue
		}
		if ino, err := strconv.ParseUint(words[5][strings.LastIndexByte(words[5], ':')+1:], 10, 64); err == nil {
			locked[ino] = true
		}
	}
	return locked, lines.Err()
}
