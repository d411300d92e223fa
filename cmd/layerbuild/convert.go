package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newConvertCommand(s *settings) *cobra.Command {
	var o engine.ConvertOptions
	cmd := &cobra.Command{
		Use:   "convert [DOCKERFILE]",
		Short: "Make a stackerfile of a Dockerfile",
		Long: `Make a stackerfile of a Dockerfile. The Dockerfile's folder is the build context;
of one that comes on standard input, as -, the working folder is. An ARG becomes a
substitution with its default, named ARG_ and the argument's name; a file of all of
them is written, too. Registries are asked for what bases say of themselves. What a
stackerfile cannot say is told by line, and stands in the stackerfile as a comment.`,
		Example: `  layerbuild convert
  layerbuild build --substitute ARG_VERSION=1.3`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				if cmd.Flags().Changed("docker-file") {
					return fmt.Errorf("both %s and --docker-file name a Dockerfile: leave out one", args[0])
				}
				o.Dockerfile = args[0]
			}
			o.Input = cmd.InOrStdin()
			notes, err := engine.Convert(cmd.Context(), o)
			for _, note := range notes {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", printable(note))
			}
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is written; next: %s\n", printable(o.Stackerfile), s.next(o.Stackerfile))
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Dockerfile, "docker-file", "i", "Dockerfile", "the `FILE` to read")
	flags.StringVarP(&o.Stackerfile, "output-file", "o", defaultStackerfile, "write the stackerfile to `FILE`")
	flags.StringVarP(&o.SubstituteFile, "substitute-file", "s", "stacker-subs.yaml", "the `FILE` of substitutions to write")
	flags.BoolVar(&o.Offline, "offline", false, "ask no registry what bases say of themselves")
	name := "app"
	if s.stacker {
		name = "${{IMAGE:app}}" // its users give --substitute IMAGE=NAME
	}
	flags.StringVar(&o.Name, "name", name, "the `NAME` of the layer that the last stage becomes, if it has none")
	return cmd
}

// next returns the command that builds a new stackerfile.
func (s *settings) next(stackerfile string) string {
	if stackerfile == defaultStackerfile {
		return s.name() + " build"
	}
	return s.name() + " build -f " + quoted(stackerfile)
}
