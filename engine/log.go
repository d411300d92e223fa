package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/progress"
)

// begin gives the build a log file, to which all is reported from now on, however
// little is shown. A build that is done in a second life of the process begins
// there. Without a log, as on a full disk, it is built all the same.
func (b *Builder) begin() (end func(error)) {
	if b.Shell != nil { // nothing is built
		return func(error) {}
	}
	shown, log, opened := b.Sink, &held{}, make(chan *os.File)
	b.Sink = progress.Tee{shown, log}
	go func() { // to make a file can take as long as all the rest
		file, err := b.openLog()
		if err != nil {
			shown.Report(progress.Event{Time: time.Now(), Kind: progress.Warning, Text: fmt.Sprintf("this build has no log: %s", err)})
			log.release(progress.Tee{})
		} else {
			log.release(progress.NewLog(file))
		}
		opened <- file
	}()
	return func(err error) {
		if err != nil {
			log.Report(progress.Event{Time: time.Now(), Kind: progress.Error, Text: err.Error()})
		}
		if file := <-opened; file != nil {
			_ = file.Close()
		}
	}
}

func (b *Builder) openLog() (*os.File, error) {
	number, err := b.numbered()
	if err != nil {
		return nil, err
	}
	return b.Cache.CreateLog(number)
}

// Log copies the log of a build to w, with no more than colours for a terminal to obey:
// of the last one when number is 0.
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
