package progress

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A screen is a terminal as ECMA-48 has it, as far as Terminal uses one: when it
// becomes narrower, it wraps what it shows.
type screen struct {
	width, height int
	lines         []string // all, also those that have scrolled away
	at            int      // the cursor's line
	kept          []string // what tmux has in its history of what was erased
	column        int
}

func (s *screen) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		switch p[0] {
		case '\r':
			s.column = 0
			p = p[1:]
		case '\n':
			s.at++
			p = p[1:]
		case '\x1b':
			size := escapeLen(string(p[:min(len(p), 16)]))
			s.obey(string(p[2:size]))
			p = p[size:]
		default:
			r, size := utf8.DecodeRune(p)
			s.put(r)
			p = p[size:]
		}
		for len(s.lines) <= s.at {
			s.lines = append(s.lines, "")
		}
	}
	return n, nil
}

func (s *screen) put(r rune) {
	if s.column+runeWidth(r) > s.width {
		s.at, s.column = s.at+1, 0
		for len(s.lines) <= s.at {
			s.lines = append(s.lines, "")
		}
	}
	line := []rune(s.lines[s.at])
	for len(line) <= s.column {
		line = append(line, ' ')
	}
	line[s.column] = r
	s.lines[s.at] = string(line)
	s.column++
}

func (s *screen) obey(sequence string) {
	n, _ := strconv.Atoi(sequence[:len(sequence)-1])
	switch sequence[len(sequence)-1] {
	case 'A':
		// A cursor does not leave the screen.
		s.at = max(s.at-n, len(s.lines)-s.height, 0)
	case 'J':
		if s.column == 0 && s.at == max(0, len(s.lines)-s.height) {
			for _, line := range s.lines[s.at:] {
				if line != "" {
					s.kept = append(s.kept, line)
				}
			}
		}
		s.lines = s.lines[:s.at+1]
		s.lines[s.at] = string([]rune(s.lines[s.at])[:min(s.column, len([]rune(s.lines[s.at])))])
	case 'K':
		s.lines[s.at] = string([]rune(s.lines[s.at])[:min(s.column, len([]rune(s.lines[s.at])))])
	case 'm', 'h', 'l':
	default:
		panic("the screen does not know " + sequence)
	}
}

// narrow makes the screen narrower, and wraps as terminals do.
func (s *screen) narrow(width int) {
	var lines []string
	for i, line := range s.lines {
		if i == s.at {
			s.at = len(lines)
		}
		part, n := "", 0
		for _, r := range line {
			if n+runeWidth(r) > width {
				lines = append(lines, part)
				part, n = "", 0
			}
			part += string(r)
			n += runeWidth(r)
		}
		lines = append(lines, part)
	}
	s.lines, s.width = lines, width
}

func (s *screen) String() string {
	return strings.TrimRight(strings.Join(s.lines, "\n"), "\n") + "\n"
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// shown returns a terminal on a screen, and a function that reports an event at
// some tenths of a second.
func shown(width, height int) (*screen, *Terminal, func(tenths int, e Event)) {
	s := &screen{width: width, height: height}
	t := newTerminal(s, Normal, func() (int, int) { return s.width, s.height }, true)
	return s, t, func(tenths int, e Event) {
		e.Time = epoch.Add(time.Duration(tenths) * 100 * time.Millisecond)
		t.now = func() time.Time { return e.Time }
		t.Report(e)
	}
}

func check(t *testing.T, what string, s *screen, want string) {
	t.Helper()
	if len(s.kept) > 0 {
		t.Errorf("%s: tmux keeps %q", what, s.kept)
	}
	if got := s.String(); got != want {
		t.Errorf("%s: the screen shows\n%s\nnot\n%s", what, got, want)
	}
}

func TestTerminal(t *testing.T) {
	s, term, report := shown(40, 10)
	report(0, Event{Kind: Begin, Total: 3})
	report(0, Event{Kind: Hit, Layer: "base"})
	report(0, Event{Kind: Miss, Layer: "web", Text: "FIRST: it is new"})
	report(1, Event{Kind: Started, Layer: "web", Text: "running"})
	report(2, Event{Kind: Output, Layer: "web", Text: "one\ttwo"})
	report(15, Event{Kind: Output, Layer: "web", Text: "10%\r20%\x1b[31m of a line that is far too long\x1b[0m"})
	term.frame()
	check(t, "running", s, `found cached layer base
web: cache miss because FIRST: it is new
  1.4s  web: running
        │ one    two
        │ 20% of a line that is far to…
  1.5s  1 of 3 layers done
`)
	report(16, Event{Kind: Finished, Layer: "web", Text: "running"})
	report(16, Event{Kind: Started, Layer: "web", Text: "packing"})
	report(18, Event{Kind: Bytes, Layer: "web", Text: "packing", Done: 1234567, Total: 4e6})
	term.frame()
	check(t, "packing", s, `found cached layer base
web: cache miss because FIRST: it is new
  0.2s  web: packing 1.23MB / 4MB
        │ one    two
        │ 20% of a line that is far to…
  1.8s  1 of 3 layers done
`)
	report(20, Event{Kind: Finished, Layer: "web", Text: "packing"})
	report(20, Event{Kind: Built, Layer: "web", Took: 2 * time.Second, Done: 1234567})
	term.frame()
	report(20, Event{Kind: Summary, Text: "1 of 3 layers", Took: 2 * time.Second})
	if err := term.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, "the end", s, `found cached layer base
web: cache miss because FIRST: it is new
filesystem web built successfully (2s, 1
.23MB)
1 of 3 layers (2s)
`)
}

// Where a line is too long for the terminal, what is done and how far it is stays.
func TestTerminalNarrow(t *testing.T) {
	for width, want := range map[int]string{
		72: "  0.2s  a-layer-with-a-long-name: pulling docker://host/base 1MB / 2MB\n",
		60: "  0.2s  a-layer-with…: pulling docker://host/base 1MB / 2MB\n",
		40: "  0.2s  a-laye…: pulling doc… 1MB / 2MB\n",
		20: "  0.2s  … 1MB / 2MB\n",
		10: "  0.2s  …\n",
	} {
		s, term, report := shown(width, 4)
		report(0, Event{Kind: Started, Layer: "a-layer-with-a-long-name", Text: "pulling docker://host/base"})
		report(2, Event{Kind: Bytes, Layer: "a-layer-with-a-long-name", Text: "pulling docker://host/base", Done: 1e6, Total: 2e6})
		term.frame()
		check(t, fmt.Sprint(width, " columns"), s, want)
	}
}

// Whatever the terminal's size, the picture fits, and in the end nothing of it is
// left and no line is missing.
func TestTerminalSizes(t *testing.T) {
	for _, height := range []int{1, 2, 3, 4, 7, 24} {
		for _, width := range []int{3, 9, 20, 120} {
			s, term, report := shown(width, height)
			want := many(t, s, term, report)
			term.Close()
			check(t, fmt.Sprintf("%dx%d", width, height), s, want)
		}
	}
}

// A terminal that becomes narrower wraps the picture; that is taken away too.
func TestTerminalNarrower(t *testing.T) {
	for _, width := range []int{20, 33, 60, 119} {
		s, term, report := shown(120, 1000)
		want := many(t, s, term, report)
		s.narrow(width)
		term.frame()
		for _, line := range s.lines {
			if n := textWidth(line); n > width {
				t.Fatalf("%d: a line is %d columns wide: %q", width, n, line)
			}
		}
		term.Close()
		check(t, fmt.Sprint(width), s, want)
	}
}

// many shows nine layers that write a lot, and returns the lines that should stay.
func many(t *testing.T, s *screen, term *Terminal, report func(int, Event)) string {
	report(0, Event{Kind: Begin, Total: 9})
	for i := range 9 {
		name := fmt.Sprintf("l%d", i)
		report(i, Event{Kind: Started, Layer: name, Text: "running"})
		for range i {
			report(i, Event{Kind: Output, Layer: name, Text: strings.Repeat("日本x", 30)})
		}
		report(i, Event{Kind: Notice, Text: "n"})
		term.frame()
		if used := len(s.lines) - i - 1; used > max(s.height, 1) {
			t.Fatalf("%dx%d: the picture and the cursor take %d lines", s.width, s.height, used)
		}
	}
	return strings.Repeat("n\n", 9)
}

// A terminal that somebody else uses shows nothing, and then goes on below.
func TestTerminalPaused(t *testing.T) {
	s, term, report := shown(40, 10)
	report(0, Event{Kind: Begin, Total: 1})
	report(0, Event{Kind: Started, Layer: "web", Text: "running"})
	term.frame()
	report(1, Event{Kind: Paused})
	check(t, "paused", s, "\n")
	report(1, Event{Kind: Notice, Text: "later"})
	term.frame()
	io.WriteString(s, "$ exit\r\n")
	report(2, Event{Kind: Resumed})
	term.frame()
	check(t, "resumed", s, `$ exit
later
  0.2s  web: running
  0.2s  0 of 1 layer done
`)
}

// Without color nothing is sent but text, moves of the cursor and erasures.
func TestTerminalNoColor(t *testing.T) {
	var out bytes.Buffer
	term := newTerminal(&out, Normal, func() (int, int) { return 80, 24 }, false)
	for _, kind := range []Kind{Begin, Started, Hit, Built, Checked, Warning, Failed, Summary} {
		term.Report(Event{Kind: kind, Layer: "web", Text: "x"})
		term.frame()
	}
	term.Close()
	for rest := out.String(); strings.Contains(rest, "\x1b"); {
		rest = rest[strings.IndexByte(rest, '\x1b'):]
		n := escapeLen(rest)
		if rest[n-1] == 'm' {
			t.Errorf("there are colors in %q", out.String())
		}
		rest = rest[n:]
	}
}

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                "plain",
		"a\tb":                                 "a    b",
		"\x1b[1;31mred\x1b[0m":                 "red",
		"\x1b]0;title\ax":                      "x",
		"\x1b]8;;http://x\x1b\\link\x1b]8;;\a": "link",
		"10%\r50%\r100%\r":                     "100%",
		"a\x00\x07\x08b\x7f":                   "ab",
		"\x1b[2":                               "",
		"\x1b":                                 "",
		"日本":                                   "日本",
		"\u009b31m":                            "31m",
	} {
		if got := PlainText(in); got != want {
			t.Errorf("PlainText(%q) = %q, not %q", in, got, want)
		}
	}
	if got := cut("日本語", 4); got != "日…" {
		t.Errorf("cut: %q", got)
	}
}

func TestColoredText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                               "plain",
		"\x1b[1;31mred\x1b[0m":                "\x1b[1;31mred\x1b[0m\x1b[0m",
		"\x1b[38:2:1:2:3mtrue":                "\x1b[38:2:1:2:3mtrue\x1b[0m",
		"\x1b[2Jwipe\x1b[1A\x1b[Hhome":        "wipehome",
		"\x1b]0;title\a\x1b]52;c;eA==\x1b\\x": "x",
		"\x1b[31\x1b[mx":                      "mx",
		"\x1b[?25lx\x1b[>4;1mx":               "xx",
		"50%\r100%\r":                         "100%",
		"a\tb\x9b2J\u009b\u202e":              "a    b\ufffd2J",
	} {
		if got := ColoredText(in); got != want {
			t.Errorf("ColoredText(%q) = %q, not %q", in, got, want)
		}
	}
}

func TestSafe(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\nü 日本":               "a\tb\nü 日本",
		"\x1b]0;x\a\r\x00":         `\u001b]0;x\u0007\u000d\u0000`,
		"\u009b2J\u202e\U000e0001": `\u009b2J\u202e\udb40\udc01`,
		"\xff":                     `\ufffd`,
	} {
		if got := Safe(in); got != want {
			t.Errorf("Safe(%q) = %q, not %q", in, got, want)
		}
		var out strings.Builder
		w := NewSafeWriter(&out)
		for i := range len(in) {
			if n, err := w.Write([]byte{in[i]}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		if got := out.String(); got != want && in != "\xff" { // which could go on
			t.Errorf("byte by byte %q is %q, not %q", in, got, want)
		}
	}
}

func FuzzPlainText(f *testing.F) {
	f.Add("\x1b[31mred\x1b]0;x\a\r\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := PlainText(s)
		if strings.ContainsAny(got, "\x1b\r\n\a\b\x00") && !strings.Contains(s, "\n") {
			t.Errorf("PlainText(%q) = %q", s, got)
		}
		if n := textWidth(cut(got, 20)); n > 20 {
			t.Errorf("cut to %d columns", n)
		}
	})
}

// On a real terminal its size is followed, and auto means tty.
func TestTerminalDevice(t *testing.T) {
	master, slave := openPTY(t)
	env := func(name string) string { return map[string]string{"TERM": "xterm"}[name] }
	display, err := NewDisplay("auto", slave, Normal, env)
	if err != nil {
		t.Fatal(err)
	}
	term, ok := display.(*Terminal)
	if !ok {
		t.Fatalf("auto on a terminal is a %T", display)
	}
	for _, want := range []int{100, 30} {
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 10, Col: uint16(want)}); err != nil {
			t.Fatal(err)
		}
		if width, height := term.size(); width != want || height != 10 {
			t.Errorf("the size is %dx%d", width, height)
		}
	}
	var read atomic.Int64
	done := make(chan []byte)
	go func() {
		var all []byte
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			all = append(all, buf[:n]...)
			read.Add(int64(n))
			if err != nil {
				done <- all
				return
			}
		}
	}()
	display.Report(Event{Kind: Begin, Time: time.Now(), Total: 1})
	display.Report(Event{Kind: Started, Time: time.Now(), Layer: "web", Text: "running"})
	for read.Load() == 0 { // a frame comes by itself
		time.Sleep(time.Millisecond)
	}
	display.Report(Event{Kind: Hit, Layer: "web"})
	display.Close()
	slave.Close()
	s := &screen{width: 30, height: 10}
	s.Write(bytes.ReplaceAll(<-done, []byte("\r\r\n"), []byte("\r\n")))
	check(t, "the end", s, "found cached layer web\n")

	for name, env := range map[string]func(string) string{
		"dumb": func(string) string { return "dumb" },
		"none": func(string) string { return "" },
	} {
		_, slave := openPTY(t)
		if display, err := NewDisplay("auto", slave, Normal, env); err != nil {
			t.Error(err)
		} else if _, ok := display.(*Plain); !ok {
			t.Errorf("auto on a terminal that is %s is a %T", name, display)
		}
	}
}

// openPTY opens a terminal: pts(4).
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
