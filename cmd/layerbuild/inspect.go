package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/go-units"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
	"github.com/layerbuild/layerbuild/layers"
)

func newInspectCommand(s *settings) *cobra.Command {
	var file string
	var load layers.Options
	var shown format
	var manifest bool
	cmd := &cobra.Command{
		Use:   "inspect [TAG...]",
		Short: "Show the images that were built",
		Long: `Show the images in the OCI layout: their tags, layers, sizes and configuration.
A tag that is of no layer of the stackerfile any more is marked as such.

With --mtree it is the files of one image, as a manifest that go-mtree's gomtree
compares with an unpacked image: owners, modes, times, digests and extended
attributes.`,
		Example: `  layerbuild inspect
  layerbuild inspect app --mtree >app.mtree    # gomtree validate -p rootfs -f app.mtree
  layerbuild inspect app --oci-dir build/oci`,
		RunE: func(cmd *cobra.Command, tags []string) (err error) {
			if err = s.reading(cmd.Context(), &load, true); err != nil {
				return err
			}
			if manifest {
				if len(tags) != 1 {
					return errors.New("--mtree is of one image: name its tag")
				}
				return engine.WriteManifest(cmd.Context(), cmd.OutOrStdout(), s.ociDir, tags[0])
			}
			found, err := engine.Inspect(s.ociDir, file, load, tags...)
			if err != nil {
				return err
			}
			warnUnread(cmd.ErrOrStderr(), found)
			if shown.json() {
				return writeJSON(cmd.OutOrStdout(), imagesJSON(found.Images), nil)
			}
			for i, image := range found.Images {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := showImage(cmd.OutOrStdout(), image); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.ValidArgsFunction = s.completeTags
	addStackerfileFlags(cmd, &file, &load)
	addFormat(cmd, &shown)
	cmd.Flags().BoolVar(&manifest, "mtree", false, "show the files of one image, as an mtree(5) manifest")
	cmd.MarkFlagsMutuallyExclusive("mtree", "format")
	return cmd
}

func showImage(w io.Writer, image engine.Tagged) error {
	note := ""
	if image.Stale {
		note = "  (of an earlier build: it is no longer in the stackerfile)"
	}
	fmt.Fprintf(w, "%s%s\n", printable(image.Tag), note)
	fmt.Fprintf(w, "  manifest  %s\n", image.Manifest.Digest)
	if image.Damage != nil {
		_, err := fmt.Fprintf(w, "  damaged   %s: build again to restore it\n", image.Damage)
		return err
	}
	fmt.Fprintf(w, "  platform  %s/%s\n", printable(image.Image.OS), printable(image.Image.Architecture))
	fmt.Fprintf(w, "  size      %s in %s\n", units.BytesSize(float64(image.Size())), layerCount(len(image.Layers)))
	for _, layer := range image.Layers {
		fmt.Fprintf(w, "  layer     %s  %10s  %s\n", layer.Digest, units.BytesSize(float64(layer.Size)), strings.TrimPrefix(layer.MediaType, "application/vnd.oci.image.layer.v1."))
	}
	for _, blob := range image.Missing {
		fmt.Fprintf(w, "  missing   %s: build again to restore it\n", blob.Digest)
	}
	// JSON escapes whatever a terminal would obey.
	config, err := json.MarshalIndent(image.Image.Config, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  config    %s\n", config)
	return nil
}

// An imageJSON is what inspect writes as JSON of one image. Config is that of the OCI image spec.
type imageJSON struct {
	Tag      string             `json:"tag"`
	Manifest string             `json:"manifest"`
	Platform string             `json:"platform"`
	Size     int64              `json:"size"` // bytes of its layers
	Layers   []layerJSON        `json:"layers"`
	Missing  []string           `json:"missing"` // digests of blobs that are not there
	Damage   string             `json:"damage,omitempty"`
	Stale    bool               `json:"stale"` // of an earlier build
	Config   *ispec.ImageConfig `json:"config,omitempty"`
}

type layerJSON struct {
	Digest    string `json:"digest"`
	DiffID    string `json:"diff_id"`
	Size      int64  `json:"size"`
	MediaType string `json:"media_type"`
}

func imagesJSON(images []engine.Tagged) []imageJSON {
	all := []imageJSON{}
	for _, image := range images {
		out := imageJSON{Tag: image.Tag, Manifest: string(image.Manifest.Digest), Stale: image.Stale, Size: image.Size(), Layers: []layerJSON{}, Missing: []string{}}
		if image.Damage != nil {
			out.Damage = image.Damage.Error()
		} else {
			out.Platform, out.Config = image.Image.OS+"/"+image.Image.Architecture, &image.Image.Config
		}
		for _, l := range image.Layers {
			out.Layers = append(out.Layers, layerJSON{string(l.Digest), string(l.DiffID), l.Size, l.MediaType})
		}
		for _, blob := range image.Missing {
			out.Missing = append(out.Missing, string(blob.Digest))
		}
		all = append(all, out)
	}
	return all
}

// warnUnread says in one line that tags of earlier builds are not marked, if that
// is so.
func warnUnread(w io.Writer, found *engine.Inspection) {
	if found.Unread == nil {
		return
	}
	first, rest, _ := strings.Cut(found.Unread.Error(), "\n")
	if rest != "" {
		first += fmt.Sprintf(" (and %d more)", 1+strings.Count(rest, "\n"))
	}
	fmt.Fprintf(w, "warning: tags of earlier builds are not marked, since the stackerfile cannot be read: %s\n", first)
}

func layerCount(n int) string {
	if n == 1 {
		return "1 layer"
	}
	return fmt.Sprintf("%d layers", n)
}

// printable makes text from outside safe for a terminal.
func printable(s string) string {
	quoted := fmt.Sprintf("%q", s)
	if quoted == `"`+s+`"` {
		return s
	}
	return quoted
}
