package main

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every flag is in --help, and all descriptions of a command begin in one column.
func TestHelp(t *testing.T) {
	root := newCommand()
	for _, cmd := range append(root.Commands(), root) {
		var text bytes.Buffer
		cmd.SetOut(&text)
		if err := cmd.Usage(); err != nil {
			t.Fatal(err)
		}
		columns := map[int]bool{}
		for _, line := range regexp.MustCompile(`(?m)^ {2,6}(?:-\w, )?--\S+(?: \S+)? {2,}`).FindAllString(text.String(), -1) {
			columns[len(line)] = true
		}
		if len(columns) > 1 {
			t.Errorf("%s: descriptions begin in %d columns", cmd.Name(), len(columns))
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !bytes.Contains(text.Bytes(), []byte("--"+f.Name)) {
				t.Errorf("%s --help lacks --%s", cmd.Name(), f.Name)
			}
		})
	}
}

// What stands for a flag's argument is a name, in capitals, and no value.
func TestPlaceholders(t *testing.T) {
	visit := func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			name, _ := pflag.UnquoteUsage(f)
			if !regexp.MustCompile(`^([A-Z]+(=[A-Z])?)?$`).MatchString(name) {
				t.Errorf("%s --%s %s", cmd.Name(), f.Name, name)
			}
		})
	}
	root := newCommand()
	visit(root)
	for _, cmd := range root.Commands() {
		visit(cmd)
	}
}
