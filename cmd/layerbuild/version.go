package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is stamped by the Makefile; otherwise the module's version is shown.
var version string

// buildVersion returns the version of this program.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func newVersionCommand(s *settings) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of layerbuild",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := cmd.OutOrStdout()
			switch format {
			case "text":
				_, err := fmt.Fprintf(w, "%s version %s, %s, %s/%s\n", s.name(), buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return err
			case "json":
				return json.NewEncoder(w).Encode(map[string]string{
					"version": buildVersion(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				})
			}
			return fmt.Errorf("--format is %q: it should be text or json", format)
		},
	}
	cmd.Flags().StringVar(&format, "format", "text", "the `FORMAT`: text or json")
	return cmd
}
