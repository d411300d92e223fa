package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/layers"
)

// completeLayers completes the names of a stackerfile's layers, also the last of
// several with commas between them.
func (s *settings) completeLayers(file *string, load *layers.Options) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		o := *load
		var err error
		if o.Builtins, err = s.builtins(); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := engine.Order([]string{*file}, o)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		before := begun[:strings.LastIndexByte(begun, ',')+1]
		args = append(args, strings.Split(before, ",")...)
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) })
		for i := range names {
			names[i] = before + names[i]
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTags completes the tags of the OCI layout.
func (s *settings) completeTags(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var tags []string
	if found, err := engine.Inspect(s.ociDir, "", layers.Options{}); err == nil {
		for _, image := range found.Images {
			if !slices.Contains(args, image.Tag) {
				tags = append(tags, image.Tag)
			}
		}
	}
	return tags, cobra.ShellCompDirectiveNoFileComp
}

// mustComplete makes a flag complete its values. That the flag is not there is a
// programming error.
func mustComplete(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err)
	}
}
