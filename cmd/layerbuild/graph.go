package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newGraphCommand(s *settings) *cobra.Command {
	var o engine.Options
	var format string
	cmd := &cobra.Command{
		Use:   "graph [LAYER...]",
		Short: "Draw the layers, what each needs, and which are in the cache",
		Long: `Draw the layers of a stackerfile, or those named and all that they need, for
Graphviz (dot), for Markdown (mermaid), or as JSON. Layers that a build would not
find in the cache are dashed; JSON says why. Nothing is built.`,
		Example: `  layerbuild graph | dot -Tsvg >layers.svg
  layerbuild graph --format json app`,
		RunE: func(cmd *cobra.Command, targets []string) (err error) {
			if err = s.reading(cmd.Context(), &o.Load, o.Offline); err != nil {
				return err
			}
			if o.Clock, err = s.clock(cmd, "reproducible"); err != nil {
				return err
			}
			s.place(&o)
			o.Targets = targets
			nodes, err := engine.Nodes(cmd.Context(), o)
			if err != nil {
				return err
			}
			text, err := engine.Draw(nodes, format)
			fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	addStackerfileFlags(cmd, &o.Stackerfile, &o.Load)
	flags := cmd.Flags()
	flags.StringVar(&format, "format", engine.FormatDOT, "the `FORMAT`: dot, mermaid or json")
	flags.BoolVar(&o.Offline, "offline", false, "use no network for stackerfiles: only what was downloaded before")
	return cmd
}
