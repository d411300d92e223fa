package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/history"
	"github.com/layerbuild/layerbuild/report"
)

// Bounds of a report.
const (
	reportLines   = 2000 // of what the steps of a layer wrote
	reportEarlier = 20   // builds
)

func newReportCommand(s *settings) *cobra.Command {
	var file, output string
	cmd := &cobra.Command{
		Use:   "report [N]",
		Short: "Draw a build as a page for a browser",
		Long: `Write a page about the last build of the stackerfile, or about build N: what was
done when and by how many workers, what the build waited for, which layers need
which, why each was built, what its steps wrote, and how long it took before.

The page is one file. It loads nothing, and can be kept beside a CI job.`,
		Example: `  layerbuild report -o report.html
  layerbuild report 12 -o - | less
  layerbuild build --report report.html   # also when the build fails`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.past(cmd.Context(), func(past *history.Past) error {
				var r *explain.Report
				var err error
				if len(args) > 0 {
					r, err = numbered(past, args[0])
				} else {
					r, err = past.Last(file)
				}
				if err != nil {
					return err
				}
				if output == "-" {
					return writeReport(cmd.OutOrStdout(), past, r)
				}
				return saveReport(output, past, r)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "stacker-file", "f", "stacker.yaml", "the stackerfile, a `FILE` or URL")
	cmd.Flags().StringVarP(&output, "output", "o", "report.html", "write the page to `FILE`; - is standard output")
	return cmd
}

// writeReport writes the page about a build.
func writeReport(w io.Writer, past *history.Past, r *explain.Report) error {
	past.Whole(r)
	builds, err := past.Builds()
	if err != nil {
		return err
	}
	page := &report.Page{Report: r, Logs: map[string]report.Log{}, Version: buildVersion(), Now: time.Now()}
	for _, b := range builds {
		if b.Build.Stackerfile == r.Build.Stackerfile && b.Build.Number < r.Build.Number && len(page.Earlier) < reportEarlier {
			page.Earlier = append(page.Earlier, b)
		}
	}
	outputs, err := past.Outputs(r, reportLines)
	if err != nil {
		return err
	}
	for layer, out := range outputs {
		page.Logs[layer] = report.Log(out)
	}
	return report.HTML(w, page)
}

// saveReport writes the page to a file, whole or not at all.
func saveReport(path string, past *history.Past, r *explain.Report) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer f.Cleanup()
	if err := writeReport(f, past, r); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// reportBuild writes the page about the build that began then and has ended. It writes
// none about a build that ended before there was anything to tell.
func (s *settings) reportBuild(ctx context.Context, stackerfile, path string, began time.Time) error {
	return s.past(ctx, func(past *history.Past) error {
		r, err := past.Last(stackerfile)
		if err != nil || r.Build.Started.Before(began) {
			return err
		}
		return saveReport(path, past, r)
	})
}
