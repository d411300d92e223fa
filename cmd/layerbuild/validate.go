package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/layers"
)

func newValidateCommand(s *settings) *cobra.Command {
	var file string
	var load layers.Options
	cmd := &cobra.Command{
		Use:   "validate [FILE...]",
		Short: "Find all faults of a stackerfile; build nothing",
		Long: `Read stackerfiles and their prerequisites, and show all faults at once, each with
its file, line and column. Nothing is built; what layers read is not looked at.`,
		Example: `  layerbuild validate
  layerbuild validate images/*.yaml --substitute VERSION=1.2`,
		RunE: func(cmd *cobra.Command, files []string) (err error) {
			if err = s.reading(cmd.Context(), &load, false); err != nil {
				return err
			}
			if len(files) == 0 {
				files = []string{file}
			}
			graph, err := engine.Validate(files, load)
			if err != nil {
				return err
			}
			for _, warning := range graph.Warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", warning)
			}
			if !s.quiet {
				fmt.Fprintf(cmd.OutOrStdout(), "valid, layers: %d\n", len(graph.Layers))
			}
			return nil
		},
	}
	addStackerfileFlags(cmd, &file, &load)
	cmd.Flags().BoolVar(&load.RequireHash, "require-hash", false, "refuse http(s) imports that have no hash")
	return cmd
}
