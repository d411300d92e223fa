package history

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/progress"
)

// Log copies the log of a build to w: that of the last build if number is 0. Of what a terminal
// obeys only colours are left.
func Log(ctx context.Context, stateDir string, number int, w io.Writer) error {
	cache, err := buildcache.Open(ctx, stateDir)
	if err != nil {
		return err
	}
	defer cache.Close()
	numbers, err := cache.Logs()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return errors.New("nothing has been built yet with this state folder")
	}
	first, last := numbers[0], numbers[len(numbers)-1]
	if number == 0 {
		number = last
	}
	file, err := cache.OpenLog(number)
	if errors.Is(err, buildcache.ErrNotFound) {
		return fmt.Errorf("there is no log of build %d: those of builds %d to %d are kept", number, first, last)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewReader(file)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			if _, err := fmt.Fprintln(w, progress.ColoredText(strings.TrimSuffix(text, "\n"))); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// An Output is what the steps of a layer wrote in a build: the last lines, as plain text,
// and how many there were before them.
type Output struct {
	Lines   []string
	Dropped int
}

// Outputs returns what the steps of a build wrote, by layer, at most as many lines of each.
// It returns none if the log is gone: fewer are kept than journals.
func (p *Past) Outputs(r *explain.Report, most int) (map[string]Output, error) {
	file, err := p.cache.OpenLog(r.Build.Number)
	if errors.Is(err, buildcache.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	all := map[string]Output{}
	for _, l := range r.Layers {
		all[l.Name] = Output{}
	}
	lines := bufio.NewReader(file)
	for err == nil {
		var text string
		text, err = lines.ReadString('\n')
		_, text, _ = strings.Cut(strings.TrimSpace(text), " ") // after the seconds
		layer, text, ok := strings.Cut(text, " | ")
		out, known := all[layer]
		if !ok || !known {
			continue
		}
		out.Lines = append(out.Lines, progress.PlainText(text))
		if len(out.Lines) > most {
			out.Lines, out.Dropped = out.Lines[1:], out.Dropped+1
		}
		all[layer] = out
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, err
}
