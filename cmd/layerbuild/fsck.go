package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/gc"
)

func newFsckCommand(s *settings) *cobra.Command {
	var o gc.FsckOptions
	var shown format
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check the state folder",
		Long: `Check all that is remembered between builds: that records and manifests have the
checksums they should have, and that what they name is there. --read-data reads
packed layers, downloads and the files of snapshots, too, which takes as long as
reading them all.

No build comes out wrong for damage that is noticed where it is used; fsck finds
it before. With --repair, what is damaged is put aside, and made again when it is
needed. The exit status is 1 if there are faults that were not repaired.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.StateDir = s.stateDir
			faults := []gc.Fault{}
			o.Found = func(f gc.Fault) {
				if shown.json() {
					faults = append(faults, f)
					return
				}
				note := ""
				if f.Repaired {
					note = " (repaired)"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s%s\n", f.Type, printable(f.ID), f.Problem, note)
			}
			n, err := gc.Fsck(cmd.Context(), o)
			if shown.json() {
				return writeJSON(cmd.OutOrStdout(), map[string]any{"checked": n, "faults": faults}, err)
			}
			if err == nil && !s.quiet {
				fmt.Fprintf(cmd.OutOrStdout(), "checked %d things: sound\n", n)
			}
			return err
		},
	}
	addFormat(cmd, &shown)
	cmd.Flags().BoolVar(&o.Repair, "repair", false, "put aside what is damaged, and forget what refers to nothing")
	cmd.Flags().BoolVar(&o.ReadData, "read-data", false, "read packed layers, downloads and the files of snapshots")
	return cmd
}
