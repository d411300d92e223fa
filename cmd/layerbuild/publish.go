package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/progress"
)

func newPublishCommand(s *settings) *cobra.Command {
	var o engine.PublishOptions
	var dir, pattern, timestamps string
	var shown format
	cmd := &cobra.Command{
		Use:   "publish [LAYER...]",
		Short: "Publish the images that were built",
		Long: `Publish the images of a stackerfile's layers, out of the OCI layout: with
--url docker://HOST/PATH to HOST/PATH/LAYER:TAG, with --url oci:FOLDER to the tag
LAYER_TAG of another OCI layout. What is there already is not sent again; blobs
that another repository of the registry has are mounted from there.

An image that a build would not find in the cache, or that would come out
otherwise, is stale, and then nothing is published; --force publishes it all the
same. Give the substitutions and times that the build was given.

Credentials are --username and --password, or those of podman, skopeo and docker.`,
		Example: `  layerbuild publish --url docker://registry.example.org/team --tag 1.2 --tag latest
  layerbuild publish --url oci:release --tag 1.2 app`,
		RunE: func(cmd *cobra.Command, images []string) (err error) {
			o.Images = append(o.Images, images...)
			if err = s.reading(cmd.Context(), &o.Load, o.Offline); err != nil {
				return err
			}
			if o.Clock, err = s.clock(cmd, timestamps); err != nil {
				return err
			}
			o.AnnotationsNamespace, o.ToolVersion = namespace(cmd, o.AnnotationsNamespace, o.Clock), buildVersion()
			if dir != "" {
				files, err := engine.Find(dir, pattern, s.stateDir, cmp.Or(s.rootsDir, s.stateDir), s.ociDir)
				if err != nil {
					return err
				}
				o.Stackerfile, o.Others = files[0], files[1:]
			}
			s.place(&o.Options)
			o.Sink, o.Author, o.CreatedBy = s.sink(), s.name(), s.createdBy()
			if !shown.json() {
				return engine.Publish(cmd.Context(), o)
			}
			published := []engine.Published{}
			o.Sink = progress.NewPlain(cmd.ErrOrStderr(), progress.Quiet)
			o.Published = func(p engine.Published) { published = append(published, p) }
			err = engine.Publish(cmd.Context(), o)
			return writeJSON(cmd.OutOrStdout(), map[string]any{"published": published, "show_only": o.ShowOnly}, err)
		},
	}
	cmd.ValidArgsFunction = s.completeLayers(&o.Stackerfile, &o.Load)
	addStackerfileFlags(cmd, &o.Stackerfile, &o.Load)
	flags := cmd.Flags()
	flags.StringVarP(&dir, "search-dir", "d", "", "publish the images of all stackerfiles below `DIR`")
	flags.StringVarP(&pattern, "stacker-file-pattern", "p", stackerfilePattern, "with --search-dir, a `REGEXP` that paths below it must match")
	flags.StringVar(&o.URL, "url", "", "the destination `URL`: docker://HOST/PATH or oci:DIR")
	flags.StringArrayVar(&o.Tags, "tag", nil, "the `TAG` that images get (repeatable)")
	flags.StringArrayVar(&o.Images, "image", nil, "publish only the image of `LAYER`, like naming it as an argument (repeatable)")
	flags.StringVar(&o.Username, "username", "", "the user `NAME` at the registry")
	flags.StringVar(&o.Password, "password", "", "the `PASSWORD` at the registry; other users of this machine can see it")
	flags.BoolVar(&o.SkipTLS, "skip-tls", false, "allow http and unverified certificates")
	flags.BoolVar(&o.ShowOnly, "show-only", false, "report what would be published, and publish nothing")
	flags.BoolVar(&o.Force, "force", false, "publish what is in the OCI layout even if it is stale")
	flags.BoolVar(&o.Offline, "offline", false, "do not check whether bases and downloads have changed")
	flags.StringVar(&timestamps, "timestamps", "reproducible", "the `TIMES` that the build was given: reproducible or now")
	addFormat(cmd, &shown)
	addManifestFlags(cmd, &o.Options)
	cmd.MarkFlagsRequiredTogether("username", "password")
	if err := cmd.MarkFlagRequired("url"); err != nil {
		panic(err)
	}
	return cmd
}
