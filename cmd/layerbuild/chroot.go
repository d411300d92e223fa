package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/progress"
)

func newChrootCommand(s *settings) *cobra.Command {
	var o engine.Options
	cmd := &cobra.Command{
		Use:     "chroot [LAYER [COMMAND...]]",
		Aliases: []string{"exec"},
		Short:   "Run a command in a layer; throw its changes away",
		Long: `Run a command, or a shell, in a layer as it was last built: the first of the
stackerfile, or the one named. It has the environment, the network, the binds and
the imports of the layer's run, as they are now, but not its secrets and caches.
What it changes is thrown away, except in binds. The exit status is that of the
command.

A command of one word or text is a shell's; several words are run as they are.`,
		Example: `  layerbuild chroot
  layerbuild chroot app 'ls -l /srv'`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err = s.reading(cmd.Context(), &o.Load, false); err != nil {
				return err
			}
			s.place(&o)
			o.Sink = progress.NewPlain(os.Stderr, s.level()) // the rest is the command's
			layer := ""
			if len(args) > 0 {
				layer, args = args[0], args[1:]
			}
			return withStatus(engine.Chroot(cmd.Context(), o, layer, args))
		},
	}
	addStackerfileFlags(cmd, &o.Stackerfile, &o.Load)
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&o.Runtime, "runtime", "", "the OCI `RUNTIME`, by name or path (default: crun or runc, whichever starts)")
	return cmd
}
