package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/gc"
)

func newDiskUsageCommand(s *settings) *cobra.Command {
	var verbose bool
	var filters []string
	var format string
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Show what the state folder takes on disk",
		Long: `Show what is remembered between builds: how many items of each type, how big
they are, how much of it the last builds use (KEPT), which prune keeps, and how
much no process uses right now, so that "prune --all" may remove it.

Items have these types: base (layers and documents of images from outside),
layer and build-only (what steps made), tree (imports), download, record (what a
step read and gave), cache (folders that steps keep between builds), failed (see build --keep-failed), corrupt (put aside).

Filters are KEY=VALUE, KEY!=VALUE or KEY~=EXPRESSION of id, parent, description,
type, inuse, mutable, immutable, shared, private and until: 24h is what has not
been used for a day. An item must match all of them.`,
		Example: `  layerbuild du
  layerbuild du --verbose --filter type=layer --filter until=168h
  layerbuild du --format json | jq '.items[] | select(.size > 1e9) | .description'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			parsed, err := gc.ParseFilters(filters)
			if err != nil {
				return err
			}
			if format != "table" && format != "json" {
				return fmt.Errorf("--format is %q: it should be table or json", format)
			}
			usage, err := gc.DiskUsage(cmd.Context(), s.stateDir, parsed)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case format == "json":
				encoder := json.NewEncoder(out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(usage)
			case verbose:
				showItems(out, usage.Items)
				return showTotals(out, usage)
			default:
				showTypes(out, usage)
				return showTotals(out, usage)
			}
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&verbose, "verbose", "v", false, "show each item")
	flags.StringArrayVar(&filters, "filter", nil, "only what matches this `FILTER` (repeatable)")
	flags.StringVar(&format, "format", "table", "the `FORMAT`: table or json")
	return cmd
}

func showTypes(w io.Writer, usage *gc.Usage) {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	defer table.Flush()
	fmt.Fprintln(table, "TYPE\tITEMS\tSIZE\tKEPT\tRECLAIMABLE\tLAST USED")
	for _, kind := range gc.Kinds() {
		var n int
		var size, kept, reclaimable int64
		var last time.Time
		for _, i := range usage.Items {
			if i.Type != kind {
				continue
			}
			n++
			size += i.Bytes()
			if i.Kept {
				kept += i.Bytes()
			}
			if !i.InUse {
				reclaimable += i.Bytes()
			}
			if i.LastUsed.After(last) {
				last = i.LastUsed
			}
		}
		if n > 0 {
			fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n", kind, n, size10(size), size10(kept), size10(reclaimable), ago(last))
		}
	}
	if usage.Other.Size > 0 {
		fmt.Fprintf(table, "other\t\t%s\t\t\t\n", size10(usage.Other.Size))
	}
}

func showItems(w io.Writer, items []*gc.Item) {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	defer table.Flush()
	fmt.Fprintln(table, "ID\tTYPE\tPARENT\tSIZE\tBLOB\tINODES\tUSED\tLAST USED\tCREATED\tFLAGS\tDESCRIPTION")
	for _, i := range items {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", printable(i.ID), i.Type, printable(parent(i)), size10(i.Size), size10(i.Blob),
			i.Inodes, i.Times, ago(i.LastUsed), ago(i.Created), itemFlags(i), printable(i.Description))
	}
}

// parent is the beginning of what an item stands on, enough to find it in the table.
func parent(i *gc.Item) string {
	if len(i.Parent) < 19 {
		return "-"
	}
	return i.Parent[:19]
}

func itemFlags(i *gc.Item) string {
	flags := "private"
	if i.Shared {
		flags = "shared"
	}
	if i.Mut {
		flags += ",mutable"
	}
	if i.InUse {
		flags += ",inuse"
	}
	if i.Kept {
		flags += ",kept"
	}
	return flags
}

func showTotals(w io.Writer, usage *gc.Usage) error {
	shared := slices.ContainsFunc(usage.Items, func(i *gc.Item) bool { return i.InUse })
	note := ""
	if shared {
		note = "; the rest is in use"
	}
	_, err := fmt.Fprintf(w, "\nTotal: %s in %d files, reclaimable: %s%s\nThe last builds use %s of that, which prune keeps, unless --all.\n",
		size10(usage.Size), usage.Inodes, size10(usage.Reclaimable), note, size10(usage.Kept))
	return err
}

func size10(n int64) string { return units.HumanSize(float64(n)) }

func ago(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }
