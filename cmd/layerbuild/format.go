package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/explain"
	"github.com/layerbuild/layerbuild/layers"
)

// A format is the value of --format: text, which is the default, or json.
type format string

func addFormat(cmd *cobra.Command, f *format) {
	*f = "text"
	cmd.Flags().Var(f, "format", "the `FORMAT`: text or json")
}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "" }
func (f *format) json() bool     { return *f == "json" }

func (f *format) Set(name string) error {
	if name != "text" && name != "json" {
		return errors.New("it should be text or json")
	}
	*f = format(name)
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
