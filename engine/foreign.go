package engine

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/layerbuild/layerbuild/inroot"
	"github.com/layerbuild/layerbuild/layers"
)

// binfmtDir is where the kernel tells how it runs programs that are not for it:
// Documentation/admin-guide/binfmt-misc.rst.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// An emulator is one entry of binfmt_misc that tells programs by their beginning.
type emulator struct {
	name        string
	offset      int
	magic, mask []byte
	fixed       bool // the kernel holds its program open: a root filesystem need not have it
}

// emulators returns those that are enabled here.
func emulators() (found []emulator) {
	files, _ := filepath.Glob(filepath.Join(binfmtDir, "*"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // register can only be written to
		}
		if e, ok := parseEmulator(string(text)); ok {
			e.name = filepath.Base(file)
			found = append(found, e)
		}
	}
	return found
}

func parseEmulator(text string) (e emulator, ok bool) {
	enabled := false
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		switch key {
		case "enabled":
			enabled = true
		case "flags:":
			e.fixed = strings.Contains(value, "F")
		case "offset":
			e.offset, _ = strconv.Atoi(value)
		case "magic":
			e.magic, _ = hex.DecodeString(value)
		case "mask":
			e.mask, _ = hex.DecodeString(value)
		}
	}
	return e, enabled && len(e.magic) > 0
}

// runs tells whether the emulator is for a program that begins so.
func (e emulator) runs(header []byte) bool {
	if e.offset < 0 || e.offset+len(e.magic) > len(header) {
		return false
	}
	for i, want := range e.magic {
		mask := byte(0xff)
		if i < len(e.mask) {
			mask = e.mask[i]
		}
		if (header[e.offset+i]^want)&mask != 0 {
			return false
		}
	}
	return true
}

// header returns how a program begins.
func header(f io.Reader) ([]byte, error) {
	head := make([]byte, 256) // of which the kernel matches as much at most
	n, err := io.ReadFull(f, head)
	if err == io.ErrUnexpectedEOF {
		err = nil
	}
	return head[:n], err
}

// checkForeign refuses a script of a layer for another platform than this machine's
// whose interpreter cannot run here: it is for another processor, and no emulator is
// registered for that.
func checkForeign(l *layers.Layer, script, root string) error {
	if l.OS == runtime.GOOS && l.Arch == runtime.GOARCH {
		return nil
	}
	first, _, _ := strings.Cut(script, "\n")
	words := strings.Fields(strings.TrimPrefix(first, "#!"))
	if len(words) == 0 {
		return nil
	}
	interpreter, err := inroot.File(root, words[0])
	if err != nil {
		return nil // to run it says what is wrong
	}
	defer interpreter.Close()
	head, _ := header(interpreter) // likewise
	machine := machineOf(head)
	if machine == "" {
		return nil
	}
	if ownMachine() == machine {
		return nil
	}
	all := emulators()
	machine, _, _ = strings.Cut(machine, ",")
	i := slices.IndexFunc(all, func(e emulator) bool { return e.runs(head) })
	switch {
	case i < 0:
		return fmt.Errorf("it is for %s/%s, and nothing here runs its %s, which is for %s: install qemu-user-static, which registers with binfmt_misc, or build it where it belongs", l.OS, l.Arch, words[0], machine)
	case !all[i].fixed:
		return fmt.Errorf("it is for %s/%s, and %s is registered with binfmt_misc without the flag F, so that it is not found in a root filesystem: register it with F", l.OS, l.Arch, all[i].name)
	}
	return nil
}

// ownMachine is the processor that this program is for.
func ownMachine() string {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer self.Close()
	head, _ := header(self)
	return machineOf(head)
}

// machineOf is the processor that an ELF program is for, by the names of the ELF
// specification, with word size and byte order; "" for anything else.
func machineOf(head []byte) string {
	if len(head) < 20 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return ""
	}
	order := elf.Data(head[elf.EI_DATA])
	low, high := head[18], head[19]
	if order == elf.ELFDATA2MSB {
		low, high = high, low
	}
	machine := strings.TrimPrefix(elf.Machine(uint16(high)<<8|uint16(low)).String(), "EM_")
	return fmt.Sprintf("%s, %s, %s", strings.ToLower(machine), elf.Class(head[elf.EI_CLASS]), order)
}

// checkEmulators finds out for which other processors scripts can run here.
func checkEmulators() Finding {
	f := Finding{What: "foreign", Extra: true}
	var names []string
	for _, e := range emulators() {
		if e.fixed && bytes.HasPrefix(e.magic, []byte(elf.ELFMAG)) {
			names = append(names, e.name)
		}
	}
	if len(names) == 0 {
		f.Cure = "layers for other processors are built as far as nothing runs: install qemu-user-static, which registers with binfmt_misc, to run scripts in them"
		return f
	}
	f.Found = "runs programs of other processors with " + strings.Join(names, ", ")
	return f
}
