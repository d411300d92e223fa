package main

import (
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/gc"
)

func newGCCommand(s *settings) *cobra.Command {
	var shown format
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what the config file's policy says, now",
		Long: `Apply the gc policy to the state folder, as builds do after they have gone well,
at most once an hour. The policy is a list of rules in the config file:

  gc:
    - filters: [type==failed]
      all: true
      keepDuration: 7d
    - maxUsedSpace: 60%
      minFreeSpace: 10%
      reservedSpace: 10GB

Each rule is applied in turn as prune applies its flags. Without a config file
there are rules like these; "gc: []" is none.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			policy, err := s.policy()
			if err != nil {
				return err
			}
			tally := newTally(s, cmd, false, shown)
			err = gc.Collect(cmd.Context(), s.stateDir, policy, tally.removed)
			return tally.total(err)
		},
	}
	addFormat(cmd, &shown)
	return cmd
}
