package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newCheckCommand(s *settings) *cobra.Command {
	var runtime string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find out whether this machine can build",
		Long: `Try what a build needs of this machine: the kernel, root or a user namespace
with subordinate ids, overlayfs below the state folder, an OCI runtime. Each is one line; what does not do comes with its
cure, and makes the exit status 1. What only some builds need is marked with --.`,
		Args: noArguments(""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings, err := engine.Check(cmd.Context(), s.stateDir, s.rootsDir, runtime)
			if err != nil {
				return err
			}
			bad := 0
			for _, f := range findings {
				switch {
				case !f.OK() && !f.Extra:
					bad++
					fmt.Fprintf(cmd.OutOrStdout(), "BAD  %-10s %s\n", f.What, f.Cure)
				case s.quiet:
				case f.OK():
					fmt.Fprintf(cmd.OutOrStdout(), "ok   %-10s %s\n", f.What, f.Found)
				default:
					fmt.Fprintf(cmd.OutOrStdout(), "--   %-10s %s\n", f.What, f.Cure)
				}
			}
			if bad > 0 {
				return errors.New("this machine cannot build yet")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&runtime, "runtime", "", "the OCI `RUNTIME` to try, by name or path (default: crun or runc, whichever starts)")
	return cmd
}
