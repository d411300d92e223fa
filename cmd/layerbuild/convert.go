package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newConvertCommand(s *settings) *cobra.Command {
	var o engine.ConvertOptions
	cmd := &cobra.Command{
		Use:   "convert",
		Short: "Make a stackerfile of a Dockerfile",
		Long: `Make a stackerfile of a Dockerfile, and a file of substitutions of its ARGs, each
named ARG_ and the argument's name. The Dockerfile's folder is the build context.
What a stackerfile cannot say is told by line, and left out.`,
		Example: `  layerbuild convert
  layerbuild build --substitute-file stacker-subs.yaml`,
		Args: noArguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			notes, err := engine.Convert(o)
			for _, note := range notes {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", printable(note))
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Dockerfile, "docker-file", "i", "Dockerfile", "the `FILE` to read")
	flags.StringVarP(&o.Stackerfile, "output-file", "o", "stacker.yaml", "the stackerfile to write, a `FILE`")
	flags.StringVarP(&o.SubstituteFile, "substitute-file", "s", "stacker-subs.yaml", "the `FILE` of substitutions to write")
	name := "app"
	if s.stacker {
		name = "${{IMAGE:app}}" // its users give --substitute IMAGE=NAME
	}
	flags.StringVar(&o.Name, "name", name, "the `NAME` of the layer that the last stage becomes, if it has none")
	return cmd
}
