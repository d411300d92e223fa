package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/layerbuild/layerbuild/gc"
	"github.com/layerbuild/layerbuild/stores"
)

// pruneFlags are the flags of prune.
type pruneFlags struct {
	rule   ruleText
	dryRun bool
	force  bool
	shown  format
}

func newPruneCommand(s *settings) *cobra.Command {
	var f pruneFlags
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what is remembered and not needed",
		Long: `Remove items of the state folder that no last build of a layer has; with --all,
those too. What a running build uses stays, and what something else stands on.
The least recently and least often used go first. With a limit (--keep-storage,
--max-inodes, --min-free) no more is removed than it takes to be below it.

A layer that is built again because of it says EVICTED. Nothing is lost but time.
See "layerbuild du --help" for types and filters. Sizes are 10GB, 512MiB, or 10%
of the disk; durations 90m, 36h or 7d.`,
		Example: `  layerbuild prune                              # asks first
  layerbuild prune --force --keep-duration 7d
  layerbuild prune --all --keep-storage 20GB --dry-run
  layerbuild prune --all --force --filter type=download --filter until=720h`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.prune(cmd, &f) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.rule.All, "all", "a", false, "also what the last builds have")
	flags.StringArrayVar(&f.rule.Filters, "filter", nil, "only what matches this `FILTER` (repeatable)")
	flags.StringVar(&f.rule.MaxUsedSpace, "keep-storage", "", "stop when no more than this `SIZE` is left")
	flags.StringVar(&f.rule.KeepDuration, "keep-duration", "", "keep what was used within this `DURATION`")
	flags.Int64Var(&f.rule.MaxInodes, "max-inodes", 0, "stop when no more than `N` files and folders are left")
	flags.StringVar(&f.rule.MinFreeSpace, "min-free", "", "stop when this `SIZE` is free on the disk")
	flags.StringVar(&f.rule.ReservedSpace, "reserved-space", "", "leave this `SIZE` alone, whatever the limits say")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be removed; remove nothing")
	flags.BoolVarP(&f.force, "force", "f", false, "do not ask")
	addFormat(cmd, &f.shown)
	return cmd
}

func (s *settings) prune(cmd *cobra.Command, f *pruneFlags) error {
	rule, err := f.rule.rule()
	if err != nil {
		return err
	}
	if err := stores.Enter(s.stateDir); err != nil {
		return err
	}
	if !f.dryRun && !f.force {
		if err := confirm(cmd, rule.All); err != nil {
			return err
		}
	}
	tally := newTally(s, cmd, f.dryRun, f.shown)
	err = gc.Prune(cmd.Context(), gc.PruneOptions{
		StateDir: s.stateDir, Rules: []gc.Rule{rule}, By: "layerbuild prune", DryRun: f.dryRun, Removed: tally.removed,
	})
	return tally.total(err)
}

// confirm asks whether to go on.
func confirm(cmd *cobra.Command, all bool) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return errors.New("prune asks before it removes, and nobody is there to answer: give --force, or --dry-run")
	}
	what := "what no last build of a layer has"
	if all {
		what = "all that no running build uses"
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "This removes %s from the state folder. Go on? [y/N] ", what)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.Join(errors.New("nothing was removed"), err)
	}
	return nil
}

// A tally shows what is removed, and adds it up.
type tally struct {
	s      *settings
	cmd    *cobra.Command
	shown  format
	dryRun bool
	items  []removedJSON
	bytes  int64
}

// A removedJSON is what prune and gc write as JSON of one item.
type removedJSON struct {
	*gc.Item
	Rule string `json:"rule"`
}

func newTally(s *settings, cmd *cobra.Command, dryRun bool, shown format) *tally {
	return &tally{s: s, cmd: cmd, shown: shown, dryRun: dryRun, items: []removedJSON{}}
}

func (t *tally) verb() string {
	if t.dryRun {
		return "would remove"
	}
	return "removed"
}

func (t *tally) removed(r gc.Removed) {
	t.items = append(t.items, removedJSON{r.Item, r.Rule})
	t.bytes += r.Item.Bytes()
	if t.s.quiet || t.shown.json() {
		return
	}
	what := size10(r.Item.Bytes())
	if r.Item.Description != "" {
		what += ", " + printable(r.Item.Description)
	}
	fmt.Fprintf(t.cmd.OutOrStdout(), "%s %s %s (%s): %s\n", t.verb(), r.Item.Type, printable(r.Item.ID), what, r.Rule)
}

// total sums up. It returns err, which the command has ended with.
func (t *tally) total(err error) error {
	if t.shown.json() {
		return writeJSON(t.cmd.OutOrStdout(), map[string]any{"removed": t.items, "bytes": t.bytes, "dry_run": t.dryRun}, err)
	}
	noun := "items"
	if len(t.items) == 1 {
		noun = "item"
	}
	fmt.Fprintf(t.cmd.OutOrStdout(), "%s %d %s, %s\n", t.verb(), len(t.items), noun, size10(t.bytes))
	return err
}
