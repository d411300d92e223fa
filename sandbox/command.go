package sandbox

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/layerbuild/layerbuild/inroot"
)

// checkCommand finds out why the kernel would not execute path. It would say so in
// words that name neither a script's interpreter nor a program's loader, and a
// runtime's report of it looks like the failure of the command.
func (s Step) checkCommand(mounts []Mount, path string, depth int) error {
	if depth > 4 { // the kernel's own limit, see execve(2)
		return fmt.Errorf("%s: scripts as interpreters of scripts, nested too deep", path)
	}
	f, err := s.open(mounts, path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return notFound(path)
	case errors.Is(err, inroot.ErrNotRegular):
		return fmt.Errorf("%s: not a file that can be executed", path)
	case err != nil:
		return err
	}
	defer f.Close()
	switch fi, err := f.Stat(); {
	case err != nil:
		return err
	case fi.Mode()&0o111 == 0:
		return fmt.Errorf("%s: not executable, its mode is %v", path, fi.Mode())
	}
	next, err := interpreter(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if next == "" {
		return nil
	}
	if err := s.checkCommand(mounts, next, depth+1); err != nil {
		return fmt.Errorf("%s needs %w", path, err)
	}
	return nil
}

func notFound(path string) error {
	if strings.HasSuffix(path, "sh") {
		return fmt.Errorf("%s: not found in the rootfs: does the base have a shell?", path)
	}
	return fmt.Errorf("%s: not found in the rootfs", path)
}

// open opens the file that the step has at path, which is in the rootfs or a mount.
func (s Step) open(mounts []Mount, path string) (*os.File, error) {
	root, rest, longest := s.Rootfs, path, ""
	for _, m := range mounts {
		if within(path, m.Dest) && len(m.Dest) >= len(longest) {
			root, rest, longest = m.Source, strings.TrimPrefix(path, m.Dest), m.Dest
		}
	}
	if rest == "" { // a file is mounted there
		root, rest = filepath.Split(root)
	}
	return inroot.File(root, rest)
}

// interpreter returns the program that the kernel starts for f: a script's
// interpreter or a dynamic program's loader; "" for another file.
func interpreter(f *os.File) (string, error) {
	head := make([]byte, 256) // BINPRM_BUF_SIZE
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	head = head[:n]
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if fields := bytes.Fields(line); len(fields) > 0 && filepath.IsAbs(string(fields[0])) {
			return string(fields[0]), nil
		}
		return "", errors.New("a script whose first line names no interpreter with its whole path")
	}
	if bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return loader(f)
	}
	if !emulated() {
		return "", errors.New("neither a program nor a script, which would start with #! and its interpreter")
	}
	return "", nil
}

// loader returns the path in the PT_INTERP segment of a program, "" if it has none.
// It reads what the kernel reads: debug/elf would read the sections too, which are
// as many as a stranger likes.
func loader(f io.ReaderAt) (string, error) {
	h, err := programHeaders(f)
	if err != nil {
		return "", fmt.Errorf("damaged program: %w", err)
	}
	if foreign(h.machine) && !emulated() {
		return "", fmt.Errorf("a program for %v, which this machine (%s) cannot run: install qemu-user-static", h.machine, runtime.GOARCH)
	}
	for _, p := range h.segments {
		if elf.ProgType(p.Type) != elf.PT_INTERP {
			continue
		}
		path := make([]byte, min(p.Filesz, unix.PathMax))
		if _, err := f.ReadAt(path, int64(p.Off)); err != nil {
			return "", fmt.Errorf("damaged program: %w", err)
		}
		path, _, _ = bytes.Cut(path, []byte{0})
		return string(path), nil
	}
	return "", nil
}

// executable is what the kernel looks at to start a program. The segments of a 32-bit
// one are widened.
type executable struct {
	machine  elf.Machine
	segments []elf.Prog64
}

func programHeaders(f io.ReaderAt) (*executable, error) {
	ident := make([]byte, elf.EI_NIDENT)
	if _, err := f.ReadAt(ident, 0); err != nil {
		return nil, err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(ident[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	at := func(off, size int64) io.Reader { return io.NewSectionReader(f, off, size) }
	if elf.Class(ident[elf.EI_CLASS]) == elf.ELFCLASS64 {
		var h elf.Header64
		if err := binary.Read(at(0, 64), order, &h); err != nil {
			return nil, err
		}
		segments := make([]elf.Prog64, h.Phnum)
		err := binary.Read(at(int64(h.Phoff), int64(h.Phnum)*56), order, segments)
		return &executable{elf.Machine(h.Machine), segments}, err
	}
	var h elf.Header32
	if err := binary.Read(at(0, 52), order, &h); err != nil {
		return nil, err
	}
	narrow := make([]elf.Prog32, h.Phnum)
	if err := binary.Read(at(int64(h.Phoff), int64(h.Phnum)*32), order, narrow); err != nil {
		return nil, err
	}
	p := &executable{machine: elf.Machine(h.Machine)}
	for _, s := range narrow {
		p.segments = append(p.segments, elf.Prog64{Type: s.Type, Off: uint64(s.Off), Filesz: uint64(s.Filesz)})
	}
	return p, nil
}

// foreign tells machines apart whose programs this one certainly cannot run itself.
func foreign(m elf.Machine) bool {
	switch runtime.GOARCH {
	case "amd64":
		return m != elf.EM_X86_64 && m != elf.EM_386
	case "arm64":
		return m != elf.EM_AARCH64 && m != elf.EM_ARM
	}
	return false
}

// emulated tells whether the kernel hands programs of some kind to an emulator.
func emulated() bool {
	entries, err := filepath.Glob("/proc/sys/fs/binfmt_misc/*")
	return err == nil && len(entries) > 2 // more than register and status
}
