package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newCheckCommand(s *settings) *cobra.Command {
	var runtime string
	var shown format
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find out whether this machine can build",
		Long: `Try what a build needs of this machine: the kernel, root or a user namespace
with subordinate ids, overlayfs below the state folder, an OCI runtime. Each is one line; what does not do comes with its
cure, and makes the exit status 1. What only some builds need is marked with --.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings, err := engine.Check(cmd.Context(), s.stateDir, s.rootsDir, runtime)
			if err != nil {
				return err
			}
			ready := !slices.ContainsFunc(findings, engine.Finding.Bad)
			if shown.json() {
				err = writeJSON(cmd.OutOrStdout(), map[string]any{"ready": ready, "findings": findingsJSON(findings)}, nil)
			} else {
				showFindings(cmd.OutOrStdout(), findings, s.quiet)
			}
			if err == nil && !ready {
				err = errors.New("this machine cannot build yet")
			}
			return err
		},
	}
	addFormat(cmd, &shown)
	cmd.Flags().StringVar(&runtime, "runtime", "", "the OCI `RUNTIME` to try, by name or path (default: crun or runc, whichever starts)")
	return cmd
}

func showFindings(w io.Writer, findings []engine.Finding, quiet bool) {
	for _, f := range findings {
		switch {
		case f.Bad():
			fmt.Fprintf(w, "BAD  %-10s %s\n", f.What, f.Cure)
		case quiet:
		case f.OK():
			fmt.Fprintf(w, "ok   %-10s %s\n", f.What, f.Found)
		default:
			fmt.Fprintf(w, "--   %-10s %s\n", f.What, f.Cure)
		}
	}
}

// A findingJSON is what check writes as JSON of one thing that a build needs.
type findingJSON struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // by every build
	Found  string `json:"found,omitempty"`
	Cure   string `json:"cure,omitempty"`
}

func findingsJSON(findings []engine.Finding) []findingJSON {
	all := []findingJSON{}
	for _, f := range findings {
		all = append(all, findingJSON{f.What, f.OK(), !f.Extra, f.Found, f.Cure})
	}
	return all
}
