package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/history"
)

func newHistoryCommand(s *settings) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the builds that are remembered",
		Long: `List the last 100 builds of the state folder, of all stackerfiles, the last one
first: when it began, how long it took, how it ended, and how many of its layers the
cache had. "history show" explains one of them, "history diff" compares two.`,
		Example: `  layerbuild history
  layerbuild history show 12
  layerbuild history show 12 web
  layerbuild history diff 11 12`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.past(cmd.Context(), func(past *history.Past) error { return listBuilds(cmd.OutOrStdout(), past, format, terminalWidth()) })
		},
	}
	addFormatFlag(cmd, &format)
	cmd.AddCommand(newHistoryShowCommand(s), newHistoryDiffCommand(s))
	return cmd
}

func newHistoryShowCommand(s *settings) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "show N [LAYER...]",
		Short: "Explain a build, or some layers of it",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.past(cmd.Context(), func(past *history.Past) error {
				report, err := numbered(past, args[0])
				if err == nil {
					err = history.Only(report, args[1:])
				}
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), past, report, format)
			})
		},
	}
	addFormatFlag(cmd, &format)
	return cmd
}

func newHistoryDiffCommand(s *settings) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare the inputs of two builds",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.past(cmd.Context(), func(past *history.Past) error {
				before, err := numbered(past, args[0])
				if err != nil {
					return err
				}
				report, err := numbered(past, args[1])
				if err != nil {
					return err
				}
				if report, err = past.AgainstBuild(report, before.Build.Number); err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), past, report, format)
			})
		},
	}
	addFormatFlag(cmd, &format)
	return cmd
}

// terminalWidth is how many columns the terminal has that standard output is; 0 if it is none.
func terminalWidth() int {
	width, _, _ := term.GetSize(int(os.Stdout.Fd()))
	return width
}

// past calls do with the builds of the state folder.
func (s *settings) past(ctx context.Context, do func(*history.Past) error) error {
	past, err := history.Open(ctx, s.stateDir)
	if err != nil {
		return err
	}
	defer past.Close()
	return do(past)
}

func numbered(past *history.Past, arg string) (*explain.Report, error) {
	number, err := strconv.Atoi(arg)
	if err != nil {
		return nil, fmt.Errorf("%q is no number of a build: `layerbuild history` lists them", arg)
	}
	return past.Build(number)
}

// listBuilds writes one line a build, whose stackerfile is cut at its beginning if a
// terminal is too narrow.
func listBuilds(w io.Writer, past *history.Past, format string, width int) error {
	builds, err := past.Builds()
	if err != nil {
		return err
	}
	switch format {
	case "text":
		return buildTable(w, builds, width)
	case "json":
		for _, b := range builds {
			b.Layers = []explain.Layer{} // `history show` has them
		}
		return explain.JSON(w, builds)
	case "markdown":
		fmt.Fprintf(w, "| build | started | took | result | layers | stackerfile |\n| --- | --- | --- | --- | --- | --- |\n")
		for _, b := range builds {
			row := buildRow(b)
			fmt.Fprintf(w, "| %s | `%s` |\n", strings.Join(row, " | "), printable(b.Build.Stackerfile))
		}
		return nil
	}
	return fmt.Errorf("--format is %q: it should be text, markdown or json", format)
}

// buildRow is what is listed of a build, but for its stackerfile.
func buildRow(r *explain.Report) []string {
	result := r.Build.Result
	if r.Build.Command != explain.CommandBuild {
		result = r.Build.Command + " " + result
	}
	return []string{
		strconv.Itoa(r.Build.Number), r.Build.Started.Local().Format(time.DateTime), explain.Seconds(r.Build.Seconds),
		result, fmt.Sprintf("%d/%d cached", r.Cache.Hits, r.Cache.Layers),
	}
}

func buildTable(w io.Writer, builds []*explain.Report, width int) error {
	if len(builds) == 0 {
		_, err := fmt.Fprintln(w, "no build is remembered")
		return err
	}
	var lines strings.Builder
	table := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "BUILD\tSTARTED\tTOOK\tRESULT\tLAYERS\t")
	for _, b := range builds {
		fmt.Fprintln(table, strings.Join(buildRow(b), "\t")+"\t")
	}
	_ = table.Flush() // into memory
	head, rows, _ := strings.Cut(lines.String(), "\n")
	fmt.Fprintln(w, head+"STACKERFILE")
	for line := range strings.Lines(rows) {
		line = strings.TrimSuffix(line, "\n")
		if _, err := fmt.Fprintln(w, line+tail(printable(builds[0].Build.Stackerfile), width-len(line))); err != nil {
			return err
		}
		builds = builds[1:]
	}
	return nil
}

// tail is the end of a text that has room in so many columns; all of it where nobody
// knows how many there are.
func tail(text string, columns int) string {
	runes := []rune(text)
	if columns <= 1 || len(runes) <= columns {
		return text
	}
	return "…" + string(runes[len(runes)-columns+1:])
}
