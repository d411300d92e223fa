package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

//go:embed init.yaml
var firstStackerfile []byte

func newInitCommand(s *settings) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a small stackerfile to start from",
		Long: `Write a small stackerfile to start from: one layer that builds, one image that takes
what it made. A file that is there is left as it is. For a project with a Dockerfile,
layerbuild convert makes the stackerfile.`,
		Example: `  layerbuild init
  layerbuild build`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there already: `%s` builds it; -f names another file", printable(file), s.next(file))
			}
			if err != nil {
				return err
			}
			_, err = out.Write(firstStackerfile)
			if err := errors.Join(err, out.Close()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is written; next: %s\n", printable(file), s.next(file))
			if _, err := os.Stat("Dockerfile"); err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "There is a Dockerfile, too: %s convert -o FILE makes a stackerfile of it.\n", s.name())
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "stacker-file", "f", defaultStackerfile, "write `FILE`")
	return cmd
}
