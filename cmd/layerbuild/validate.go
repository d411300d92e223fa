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
	var shown format
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
			if shown.json() {
				return writeJSON(cmd.OutOrStdout(), validationOf(graph, err), err)
			}
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
	addFormat(cmd, &shown)
	cmd.Flags().BoolVar(&load.RequireHash, "require-hash", false, "refuse http(s) imports that have no hash")
	return cmd
}

// validation is what validate writes as JSON.
type validation struct {
	Valid    bool        `json:"valid"`
	Layers   []string    `json:"layers"`
	Faults   []faultJSON `json:"faults"`
	Warnings []faultJSON `json:"warnings"`
}

func validationOf(graph *layers.Graph, err error) validation {
	v := validation{Valid: err == nil, Layers: []string{}, Faults: faultsJSON(err), Warnings: []faultJSON{}}
	if err != nil {
		return v
	}
	for _, l := range graph.Layers {
		v.Layers = append(v.Layers, l.Name)
	}
	if len(graph.Warnings) > 0 {
		v.Warnings = faultsJSON(graph.Warnings)
	}
	return v
}
