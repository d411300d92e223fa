package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layerbuild/layerbuild/dockerfile"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/oci"
	"github.com/layerbuild/layerbuild/registry"
)

// ConvertOptions say what to convert, and to where. The files to write must not exist,
// unless an earlier Convert wrote them and nobody has changed them since.
type ConvertOptions struct {
	Dockerfile     string    // its folder is the build context; "-" is Input, with the working folder
	Input          io.Reader // what "-" reads
	Stackerfile    string
	SubstituteFile string // is written if there are substitutions
	Name           string // of the layer that the last stage becomes, when it has none
	Offline        bool   // ask no registry what bases say
}

// Convert writes a stackerfile for a Dockerfile, and returns what became something
// else, or nothing, each with file and line.
func Convert(ctx context.Context, o ConvertOptions) (notes []string, err error) {
	for _, file := range []string{o.Stackerfile, o.SubstituteFile} {
		if !mayConvertTo(file) {
			return nil, fmt.Errorf("%s is there already, and not as `convert` wrote it: remove it, or name another file", file)
		}
	}
	name, input := "Dockerfile", o.Input
	if o.Dockerfile != "-" {
		f, err := os.Open(o.Dockerfile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		name, input = o.Dockerfile, f
	}
	folder := filepath.Dir(name)
	from, err := relative(filepath.Dir(o.Stackerfile), folder)
	if err != nil {
		return nil, err
	}
	files, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	result, err := dockerfile.Convert(input, dockerfile.Options{
		Name: o.Name, File: filepath.Base(name), Files: files.FS(), Context: from, Image: o.imageReader(ctx),
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, note := range result.Notes {
		notes = append(notes, fmt.Sprintf("%s:%d: %s", name, note.Line, note.Text))
	}
	if err := os.WriteFile(o.Stackerfile, stamped(result.Stackerfile), 0o644); err != nil {
		return notes, err
	}
	if result.Substitutions == nil {
		return notes, nil
	}
	return notes, os.WriteFile(o.SubstituteFile, stamped(result.Substitutions), 0o644)
}

const stamp = "# Made by layerbuild convert; sha256 of what follows: "

// stamped returns a text after a line by which Convert knows it again.
func stamped(text []byte) []byte {
	return fmt.Appendf(nil, "%s%s\n%s", stamp, digest.FromBytes(text).Encoded(), text)
}

// mayConvertTo reports whether a file is not there, or is what Convert has written.
func mayConvertTo(file string) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	return bytes.Equal(text, stamped(rest))
}

// imageReader returns what asks registries for the configuration of bases, each once.
func (o ConvertOptions) imageReader(ctx context.Context) func(reference, os, arch string) (*dockerfile.Image, error) {
	const patience = 20 * time.Second
	client := registry.New(registry.Options{Attempts: 2, FirstByte: patience})
	return func(reference, system, arch string) (*dockerfile.Image, error) {
		if o.Offline {
			return nil, errors.New("--offline asks no registry")
		}
		ctx, stop := context.WithTimeout(ctx, patience)
		defer stop()
		p := ispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
		if system != "" {
			p.OS = system
			p.Architecture, p.Variant = layers.SplitArch(arch)
		}
		config, docker, err := oci.ConfigFromRegistry(ctx, client, registry.Ref{Name: "docker://" + reference}, p)
		if err != nil {
			return nil, err
		}
		c := config.Config
		return &dockerfile.Image{Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Shell: docker.Shell, OnBuild: docker.OnBuild}, nil
	}
}

// relative is the path of a folder as seen from another one. Either may be absolute.
func relative(from, to string) (string, error) {
	from, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	if to, err = filepath.Abs(to); err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}
