package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

// stackerfilePattern finds stackerfiles by their usual name, as stacker's does.
const stackerfilePattern = `/stacker\.yaml$`

func newRecursiveBuildCommand(s *settings) *cobra.Command {
	var f buildFlags
	var dir, pattern string
	cmd := &cobra.Command{
		Use:   "recursive-build",
		Short: "Build all stackerfiles below a folder",
		Long: `Build the layers of all stackerfiles below a folder, as one build: a stackerfile
that is a prerequisite of another is built once. Names of layers must be unique
in all of them. The state folder and the OCI layout are not searched.`,
		Example: `  layerbuild recursive-build -d images
  layerbuild recursive-build -p '/images/[^/]*\.yaml$'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := engine.Find(dir, pattern, s.stateDir, cmp.Or(s.rootsDir, s.stateDir), s.ociDir)
			if err != nil {
				return err
			}
			f.Stackerfile, f.Others = files[0], files[1:]
			return s.build(cmd, &f)
		},
	}
	addSubstituteFlags(cmd, &f.Load)
	f.addCommon(cmd, s)
	flags := cmd.Flags()
	flags.StringVarP(&dir, "search-dir", "d", ".", "search `DIR`")
	flags.StringVarP(&pattern, "stacker-file-pattern", "p", stackerfilePattern, "a `REGEXP` that paths below that folder must match")
	return cmd
}
