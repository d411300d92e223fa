package imports

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/statedir"
)

// A handover is what a process measured before it started itself anew by
// execve(2), for its next life: nothing is measured twice, and one build sees each
// source as it was at one time. What is copied of a source is compared with its
// tree in any life.
type handover struct {
	Process string          `json:"process"`
	Trees   map[string]Tree `json:"trees"` // by Source.id
}

func (s *Store) handoverPath() string { return filepath.Join(s.state, "statindex", "handover") }

// HandOver keeps what Digest said for the next life of this process, in which Open
// takes it over. Of several processes at once the last one's is kept: what is lost
// is measured again.
func (s *Store) HandOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	process, err := processID()
	if err != nil || len(s.measured) == 0 {
		return
	}
	if text, err := json.Marshal(handover{process, s.measured}); err == nil {
		_ = s.writeHint(s.handoverPath(), string(text))
	}
}

// takeOver returns what this process measured in its life before.
func (s *Store) takeOver() map[string]Tree {
	text, err := statedir.ReadFile(s.handoverPath())
	if err != nil {
		return nil
	}
	var h handover
	process, err := processID()
	if err != nil || json.Unmarshal(text, &h) != nil || h.Process != process {
		return nil
	}
	_ = os.Remove(s.handoverPath())
	return h.Trees
}

// processID tells this process from any that is or was, on this machine; it stays
// when the process starts itself anew.
func processID() (string, error) {
	boot, err := bootID()
	if err != nil {
		return "", err
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return "", err
	}
	// The 22nd field is when it started; the second may have spaces (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/self/stat: %w", unix.EINVAL)
	}
	return fmt.Sprint(boot, " ", os.Getpid(), " ", fields[19]), nil
}
