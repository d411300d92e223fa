package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newGrabCommand(s *settings) *cobra.Command {
	var o engine.Options
	cmd := &cobra.Command{
		Use:   "grab LAYER:PATH [DEST]",
		Short: "Copy a file or folder out of a layer",
		Long: `Copy a file or folder out of a layer as it was last built, to DEST or the current
folder. The layer is that of the stackerfile, or if that has not been built, of
whichever was built last; the stackerfile is not read. Setuid and setgid bits, write
permission for all and extended attributes are left out; devices are refused. Nothing is
written outside of DEST: a link in it is replaced. Hard links are kept.`,
		Example: `  layerbuild grab app:/usr/bin/app
  layerbuild grab app:/srv/site public/`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			layer, path, ok := strings.Cut(args[0], ":")
			if !ok || layer == "" || path == "" {
				return fmt.Errorf("%q names no file: write LAYER:PATH", args[0])
			}
			dest := "."
			if len(args) == 2 {
				dest = args[1]
			}
			s.place(&o)
			o.Sink = s.sink()
			return engine.Grab(cmd.Context(), o, layer, path, dest)
		},
	}
	cmd.Flags().StringVarP(&o.Stackerfile, "stacker-file", "f", defaultStackerfile, "the stackerfile, a `FILE` or URL")
	return cmd
}
