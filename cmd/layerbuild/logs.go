package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/history"
)

func newLogsCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "logs [N]",
		Short: "Print the full log of the last build, or of build N",
		Long: `Print the full log of the last build, or of build N: all that happened, whatever
was shown of it, and all that steps wrote. Each line begins with the seconds since
the build began. The logs of the last 50 builds are kept.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number := 0
			if len(args) > 0 {
				var err error
				if number, err = strconv.Atoi(args[0]); err != nil || number < 1 {
					return fmt.Errorf("%q is not the number of a build: the first is 1", args[0])
				}
			}
			return history.Log(cmd.Context(), s.stateDir, number, os.Stdout) // it is made safe there, but for colours
		},
	}
}
