package engine

import (
	"fmt"
	"os"
	"time"

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
	b.Sink = progress.Tee{shown, log, b.timeline}
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
