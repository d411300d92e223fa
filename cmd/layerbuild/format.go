package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/layers"
)

// A format is the value of --format: one of some, of which the first is the default.
type format struct {
	name  string
	known []string
}

// addFormat gives a command --format. Without names they are text and json.
func addFormat(cmd *cobra.Command, f *format, names ...string) {
	if len(names) == 0 {
		names = []string{"text", "json"}
	}
	f.name, f.known = names[0], names
	last := len(names) - 1
	cmd.Flags().Var(f, "format", "the `FORMAT`: "+strings.Join(names[:last], ", ")+" or "+names[last])
}

func (f *format) String() string { return f.name }
func (f *format) Type() string   { return "" }
func (f *format) json() bool     { return f.name == "json" }

func (f *format) Set(name string) error {
	if !slices.Contains(f.known, name) {
		last := len(f.known) - 1
		return fmt.Errorf("it should be %s or %s", strings.Join(f.known[:last], ", "), f.known[last])
	}
	f.name = name
	return nil
}

// writeJSON writes a value as docs/json.md describes it, and joins the error with that
// of the command, so that what was found is told even if the command fails for it.
func writeJSON(w io.Writer, v any, err error) error {
	return errors.Join(err, explain.JSON(w, v))
}

// A faultJSON is one fault or warning of a stackerfile.
type faultJSON struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Layer   string `json:"layer,omitempty"`
	Message string `json:"message"`
}

func faultsJSON(err error) []faultJSON {
	faults := []faultJSON{}
	var all layers.Errors
	switch {
	case err == nil:
	case errors.As(err, &all):
		for _, e := range all {
			faults = append(faults, faultJSON{e.Pos.File, e.Pos.Line, e.Pos.Column, e.Layer, e.Msg})
		}
	default:
		faults = append(faults, faultJSON{Message: err.Error()})
	}
	return faults
}
