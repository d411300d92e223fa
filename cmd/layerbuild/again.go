package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layerbuild/layerbuild/redact"
)

// kept are the flags that say where everything is, and what a stackerfile means.
var kept = []string{
	"substitute", "substitute-file", "shell", "secret", "secret-key", "runtime",
	"state-dir", "roots-dir", "oci-dir", "work-dir", "config",
}

// again returns a function that spells out a command of this program as hints name it,
// to be pasted: about the same stackerfile, in the same folders, as the command cmd.
func (s *settings) again(cmd *cobra.Command) func(stackerfile string, args ...string) string {
	return func(stackerfile string, args ...string) string {
		words := append([]string{s.name()}, args...)
		if stackerfile != "" && stackerfile != defaultStackerfile {
			words = append(words, "-f", stackerfile)
		}
		named, _, err := cmd.Root().Find(args[:1])
		if err != nil {
			named = cmd
		}
		cmd.Flags().Visit(func(f *pflag.Flag) {
			if slices.Contains(kept, f.Name) && (named.Flags().Lookup(f.Name) != nil || named.InheritedFlags().Lookup(f.Name) != nil) {
				words = append(words, given(f)...)
			}
		})
		for i, word := range words {
			words[i] = quoted(word)
		}
		return strings.Join(words, " ")
	}
}

// given returns a flag as it was given. A value that looks like a secret is left out:
// hints get into logs.
func given(f *pflag.Flag) (words []string) {
	values := []string{f.Value.String()}
	if list, ok := f.Value.(pflag.SliceValue); ok {
		values = list.GetSlice()
	}
	for _, value := range values {
		if name, _, ok := strings.Cut(value, "="); ok && f.Name == "substitute" && redact.Variable(name, value) {
			value = name + "=…"
		}
		words = append(words, "--"+f.Name, value)
	}
	return words
}

// quoted is a word as a shell takes it for itself.
func quoted(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n\"'`$&|;<>()*?[]#~{}\\!") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
