package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/build"
)

func newShellCommand(s *settings) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "shell LAYER [-- COMMAND...]",
		Short: "Look around where a run failed",
		Long: `Run a shell, or a command, in the root filesystem that a failed run has left, if
it was kept with "layerbuild build --keep-failed". It has the environment, imports
and binds of that run, whose script lies at /stacker/.stacker-run.sh to be run
again. What is changed stays until the layer is built.

The exit status is the command's.`,
		Example: `  layerbuild build --keep-failed
  layerbuild shell web
  layerbuild shell web -- cat /var/log/configure.log`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Shell = &build.Shell{Layer: args[0], Command: args[1:]}
			f.Targets = args[:1]
			err := s.build(cmd, &f)
			var exit *build.ShellError
			if errors.As(err, &exit) {
				return &exitStatus{exit.Exit.Status, err}
			}
			return err
		},
	}
	addStackerfileFlags(cmd, &f.Stackerfile, &f.Load)
	cmd.Flags().StringVar(&f.Runtime, "runtime", "", "the OCI runtime to run it in, by `name` or path")
	f.timestamps, f.progress = "reproducible", "plain" // the terminal is the shell's
	return cmd
}
