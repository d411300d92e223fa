package locks

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Holder is who has a lock; the zero Holder is not known.
type Holder struct {
	PID   int       `json:"pid"`
	Layer string    `json:"layer,omitempty"` // that is being built
	Since time.Time `json:"since"`

	command string // if the kernel had to be asked; Since is when the process began then
}

// A Waiting is what somebody waits for.
type Waiting struct {
	Layer  string // that waits; "" for none in particular
	Holder Holder
	Doing  string // what the holder has it for, see Wait
}

func (w Waiting) String() string {
	h, since := w.Holder, " since "+w.Holder.Since.Local().Format(time.TimeOnly)
	switch {
	case h.PID == 0:
		return "waiting for another process, which " + w.Doing
	case h.command != "":
		return fmt.Sprintf("waiting for %s, which %s", h.process(), w.Doing)
	case h.PID == os.Getpid():
		return fmt.Sprintf("waiting for layer %q, which %s", h.Layer, w.Doing+since)
	case h.Layer == "":
		return fmt.Sprintf("waiting for process %d, which %s", h.PID, w.Doing+since)
	}
	return fmt.Sprintf("waiting for process %d, whose layer %q %s", h.PID, h.Layer, w.Doing+since)
}

// process is a holder that the kernel knows.
func (h Holder) process() string {
	return fmt.Sprintf("process %d (%s, begun at %s)", h.PID, h.command, h.Since.Local().Format(time.TimeOnly))
}

// The keys of what contexts hold.
type (
	layerKey   struct{}
	watcherKey struct{}
)

// Watch returns a context with which waiting is called once for each lock that has to be
// waited for.
func Watch(ctx context.Context, waiting func(Waiting)) context.Context {
	return context.WithValue(ctx, watcherKey{}, waiting)
}

// For returns a context for the work on a layer, in whose name locks are taken.
func For(ctx context.Context, layer string) context.Context {
	return context.WithValue(ctx, layerKey{}, layer)
}

// Me is who takes locks with a context.
func Me(ctx context.Context) Holder {
	layer, _ := ctx.Value(layerKey{}).(string)
	return Holder{PID: os.Getpid(), Layer: layer, Since: time.Now().UTC()}
}

// tell tells the watcher.
func tell(ctx context.Context, doing string, h Holder) {
	if waiting, ok := ctx.Value(watcherKey{}).(func(Waiting)); ok {
		waiting(Waiting{Me(ctx).Layer, h, doing})
	}
}

// Held returns the inodes of all files, on any device, that a process has a flock on,
// and one such process, another than this if there is one. Those of other pid namespaces
// are not seen, so this serves only to tell people.
func Held() (map[uint64]int, error) {
	held := map[uint64]int{}
	err := eachFlock(func(_ string, ino uint64, pid int) {
		if known := held[ino]; known == 0 || known == os.Getpid() {
			held[ino] = pid
		}
	})
	return held, err
}

// eachFlock calls do with the device, the inode and the process of each flock
// (proc_locks(5)).
func eachFlock(do func(device string, ino uint64, pid int)) error {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 6 || words[1] != "FLOCK" {
			continue
		}
		at := strings.LastIndexByte(words[5], ':')
		pid, err1 := strconv.Atoi(words[4])
		ino, err2 := strconv.ParseUint(words[5][at+1:], 10, 64)
		if err1 == nil && err2 == nil && at > 0 {
			do(words[5][:at], ino, pid)
		}
	}
	return lines.Err()
}

// other asks the kernel who else has a file; say is false if it is this process. A file of
// the same number on another device counts only where none is on this one: some
// filesystems tell stat(2) of another device than the kernel has.
func other(f *os.File) (h Holder, say bool) {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return Holder{}, true
	}
	device := fmt.Sprintf("%02x:%02x", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))) //nolint:unconvert // mips has 32 bits
	best, pid := 0, 0
	err := eachFlock(func(on string, ino uint64, by int) {
		if ino != st.Ino {
			return
		}
		rank := 1
		if by != os.Getpid() {
			rank++
		}
		if on == device {
			rank += 2
		}
		if rank > best {
			best, pid = rank, by
		}
	})
	if err != nil {
		return Holder{}, true
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return Holder{}, true
	}
	return Holder{PID: pid, Since: begun(pid), command: string(bytes.TrimSpace(command))}, pid != os.Getpid()
}

// By tells people who else has a file, " by process …", as far as that can be seen.
func By(f *os.File) string {
	if h, say := other(f); h.PID != 0 && say {
		return " by " + h.process()
	}
	return ""
}

// begun is when a process began: field 22 of its stat, in ticks of a hundredth of a
// second since the machine did (proc_pid_stat(5)).
func begun(pid int) time.Time {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from the third on
	var now unix.Timespec
	if len(fields) < 20 || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Time{}
	}
	ticks, _ := strconv.ParseInt(fields[19], 10, 64)
	return time.Now().Add(time.Duration(ticks)*10*time.Millisecond - time.Duration(now.Nano()))
}
