package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/stores"
)

func newCleanCommand(s *settings) *cobra.Command {
	var file string
	var load layers.Options
	var all bool
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove the images that were built",
		Long: `Remove the OCI layout that builds write their images to. What is remembered
between builds stays, so that the next build restores the images without running
anything; --all removes that too.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err = s.reading(cmd.Context(), &load, true); err != nil {
				return err
			}
			if all {
				if err := stores.Enter(s.stateDir); err != nil {
					return err
				}
			}
			found, err := engine.Clean(cmd.Context(), s.ociDir, file, load)
			if err != nil {
				return err
			}
			warnUnread(cmd.ErrOrStderr(), found)
			if !s.quiet {
				for _, image := range found.Images {
					note := ""
					if image.Stale {
						note = ", which is no longer in the stackerfile"
					}
					fmt.Fprintf(cmd.OutOrStdout(), "removed %s%s\n", printable(image.Tag), note)
				}
			}
			if all {
				return stores.Destroy(cmd.Context(), s.stateDir)
			}
			return nil
		},
	}
	addStackerfileFlags(cmd, &file, &load)
	cmd.Flags().BoolVar(&all, "all", false, "also remove all that is remembered between builds, of all stackerfiles")
	return cmd
}
