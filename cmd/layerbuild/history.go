package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/history"
)

func newHistoryCommand(s *settings) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the builds that are remembered",
		Long: `List the last 100 builds of the state folder, of all stackerfiles, the last one
first. "history show" explains one of them, "history diff" compares two.`,
		Example: `  layerbuild history
  layerbuild history show 12
  layerbuild history diff 11 12`,
		Args: noArguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.past(cmd.Context(), func(past *history.Past) error { return listBuilds(cmd.OutOrStdout(), past, format) })
		},
	}
	addFormatFlag(cmd, &format)
	cmd.AddCommand(newHistoryShowCommand(s), newHistoryDiffCommand(s))
	return cmd
}

func newHistoryShowCommand(s *settings) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "show N",
		Short: "Explain a build",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.past(cmd.Context(), func(past *history.Past) error {
				report, err := numbered(past, args[0])
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

func listBuilds(w io.Writer, past *history.Past, format string) error {
	builds, err := past.Builds()
	if err != nil {
		return err
	}
	switch format {
	case "text":
	case "json":
		for _, b := range builds {
			b.Layers = nil // `history show` has them
		}
		return explain.JSON(w, builds)
	case "markdown":
		fmt.Fprintf(w, "| build | started | result | cache | stackerfile |\n| --- | --- | --- | --- | --- |\n")
	default:
		return fmt.Errorf("--format is %q: it should be text, markdown or json", format)
	}
	row := "%d  %s  %-11s  %s  %s\n"
	if format == "markdown" {
		row = "| %d | %s | %s | %s | `%s` |\n"
	}
	for _, b := range builds {
		fmt.Fprintf(w, row, b.Build.Number, b.Build.Started.Local().Format(time.DateTime), b.Build.Result, b.Cache, printable(b.Build.Stackerfile))
	}
	return nil
}
