package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/history"
	"github.com/layerbuild/layerbuild/layers"
)

// explainFlags are the flags of `layerbuild explain`.
type explainFlags struct {
	file    string
	load    layers.Options
	format  string
	against string
	export  string
	ignored string
	hits    bool
}

func newExplainCommand(s *settings) *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain [LAYER...]",
		Short: "Say why layers were built, or found in the cache",
		Long: `Say of the last build of the stackerfile (or, if it was not built yet, of the
last one below its folder) which layers were built and why: all reasons at once,
down to the files, attributes and lines that changed. Layers that were built only since
others were stand below these. Of a LAYER it says why it was built the last time that
it was, which may be some builds ago.

--against compares the inputs of that build with those of another one: of the
same state folder by its number or by a record's key, of another state folder,
or of another machine by a bundle that --export wrote there. A bundle holds the
names of imported files, scripts and variables; what looks like a secret is
redacted, and no content of a file is in it.`,
		Example: `  layerbuild explain
  layerbuild explain web --debug        # every file and every line
  layerbuild explain --export ci.json   # on the CI machine
  layerbuild explain --against ci.json  # on a laptop: why did CI miss?
  layerbuild explain --ignored src/__pycache__`,
		RunE: func(cmd *cobra.Command, names []string) error {
			return s.explain(cmd.Context(), cmd.OutOrStdout(), &f, names)
		},
	}
	addStackerfileFlags(cmd, &f.file, &f.load)
	flags := cmd.Flags()
	addFormatFlag(cmd, &f.format)
	flags.StringVar(&f.against, "against", "", "compare with `WHAT`: the number of a build, the key of a record, a bundle, or another state folder")
	flags.StringVar(&f.export, "export", "", "write a bundle to `FILE`, to compare with elsewhere")
	flags.StringVar(&f.ignored, "ignored", "", "report the rule by which `PATH` is not imported")
	flags.BoolVar(&f.hits, "hit", false, "for layers found in the cache, report what was compared")
	cmd.MarkFlagsMutuallyExclusive("against", "export", "ignored", "hit")
	return cmd
}

func addFormatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVar(format, "format", "text", "the `FORMAT`: text, markdown or json")
}

func (s *settings) explain(ctx context.Context, w io.Writer, f *explainFlags, names []string) (err error) {
	if err = s.reading(ctx, &f.load, true); err != nil {
		return err
	}
	if f.ignored != "" {
		return explainIgnored(w, f)
	}
	past, err := history.Open(ctx, s.stateDir)
	if err != nil {
		return err
	}
	defer past.Close()
	if len(names) > 0 && f.export == "" && f.against == "" && !f.hits {
		return s.explainBuilding(w, past, f, names)
	}
	report, err := past.Last(f.file)
	if err != nil {
		return err
	}
	if err := history.Only(report, names); err != nil {
		return err
	}
	switch {
	case f.export != "":
		return export(past.Export(report), f.export)
	case f.against != "":
		if report, err = past.Against(ctx, report, f.against); err != nil {
			return err
		}
	case f.hits:
		past.Hits(report)
	}
	return s.show(w, past, report, f.format)
}

// explainBuilding shows the last builds that built layers.
func (s *settings) explainBuilding(w io.Writer, past *history.Past, f *explainFlags, names []string) error {
	reports, err := past.Building(f.file, names...)
	if err != nil {
		return err
	}
	for _, report := range reports {
		if err := s.show(w, past, report, f.format); err != nil {
			return err
		}
	}
	return nil
}

// show writes a report in a format.
func (s *settings) show(w io.Writer, past *history.Past, r *explain.Report, format string) error {
	if s.debug {
		past.Whole(r)
	}
	o := explain.Options{All: s.debug, Now: time.Now()}
	switch format {
	case "text":
		return explain.Text(w, r, o)
	case "markdown":
		return explain.Markdown(w, r, o)
	case "json":
		return explain.JSON(w, r)
	}
	return fmt.Errorf("--format is %q: it should be text, markdown or json", format)
}

// export writes a bundle, whole or not at all.
func export(b *explain.Bundle, path string) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := explain.JSON(f, b); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// explainIgnored says by which rule a path is ignored.
func explainIgnored(w io.Writer, f *explainFlags) error {
	found, err := engine.Ignored(f.file, f.load, f.ignored)
	if err != nil {
		return err
	}
	for _, by := range found {
		fmt.Fprintf(w, "%s: import %s: ", printable(by.Layer), printable(by.Import.Source.Raw))
		rule := by.Rule
		if rule == nil {
			fmt.Fprintf(w, "%s is imported: no rule matches it\n", printable(by.Below))
			continue
		}
		verb := "is ignored"
		if !rule.Ignores() {
			verb = "is imported"
		}
		place := fmt.Sprintf("pattern %d of `ignore` at %s", rule.Line, by.Import.Pos)
		if rule.File != "" {
			file := filepath.Join(by.Import.Source.Path, rule.File)
			if here, err := os.Getwd(); err == nil {
				if rel, err := filepath.Rel(here, file); err == nil {
					file = rel
				}
			}
			place = fmt.Sprintf("%s:%d", printable(file), rule.Line)
		}
		fmt.Fprintf(w, "%s %s by %q, %s\n", printable(by.Below), verb, rule.Pattern, place)
	}
	return nil
}
