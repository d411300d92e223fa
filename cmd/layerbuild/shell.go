package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newShellCommand(s *settings) *cobra.Command {
	var o engine.Options
	var secrets secretFlags
	cmd := &cobra.Command{
		Use:   "shell LAYER [-- COMMAND...]",
		Short: "Look around where a run failed",
		Long: `Run a shell, or a command, in the root filesystem that a failed run has left, if
it was kept with "layerbuild build --keep-failed". It has the environment, imports,
binds, caches and secrets of that run, whose script lies at /stacker/.stacker-run.sh to be run
again. What is changed stays until the layer is built.

The exit status is the command's.`,
		Example: `  layerbuild build --keep-failed
  layerbuild shell web
  layerbuild shell web -- cat /var/log/configure.log`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err = s.reading(cmd.Context(), &o.Load, false); err != nil {
				return err
			}
			if err := secrets.parse(&o); err != nil {
				return err
			}
			s.place(&o)
			o.Sink = s.sink()
			o.Shell, o.Targets = &engine.Shell{Layer: args[0], Command: args[1:]}, args[:1]
			err = engine.Build(cmd.Context(), o)
			var exit *engine.ShellError
			if errors.As(err, &exit) {
				return &exitStatus{exit.Exit.Status, err}
			}
			return err
		},
	}
	addStackerfileFlags(cmd, &o.Stackerfile, &o.Load)
	secrets.add(cmd)
	cmd.Flags().StringVar(&o.Runtime, "runtime", "", "the OCI `RUNTIME`, by name or path (default: crun or runc, whichever starts)")
	return cmd
}
