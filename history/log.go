package history

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/layerbuild/layerbuild/buildcache"
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
