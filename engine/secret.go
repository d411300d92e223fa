package engine

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/layers"
	"github.com/layerbuild/layerbuild/progress"
	"github.com/layerbuild/layerbuild/sandbox"
)

// A Secret is a value that is given to the scripts of layers which name it. It is
// read when the first of them runs, unless it is Keyed.
type Secret struct {
	ID    string
	Keyed bool   // its keyed digest is an input of the steps that see it
	env   string // the variable it comes from, or ""
	value func() ([]byte, error)
}

// Bounds in bytes.
const (
	maxSecret    = 500 << 10 // BuildKit's
	minSecretKey = 32
)

// ParseSecret reads what --secret says, as docker's does: id=ID, with src=FILE (or
// source) or env=VARIABLE, and perhaps type=file|env and key=true. Without a source
// it is the variable of that name if there is one, else the file.
func ParseSecret(text string) (*Secret, error) {
	s, err := parseSecret(text, "id", "type", "key")
	if err == nil && s.ID == "" {
		err = errors.New("it has no id: write id=ID,src=FILE or id=ID,env=VARIABLE")
	}
	if err != nil {
		return nil, fmt.Errorf("--secret: %w", err)
	}
	return s, nil
}

// ParseSecretKey reads what --secret-key says: src=FILE or env=VARIABLE. The value is
// what digests of secrets are keyed with, instead of the state folder's own key.
func ParseSecretKey(text string) (*Secret, error) {
	s, err := parseSecret(text)
	if err == nil {
		var key []byte
		if key, err = s.value(); err == nil && len(bytes.TrimSpace(key)) < minSecretKey {
			err = fmt.Errorf("it is shorter than %d bytes, and could be guessed: `openssl rand -hex 32` makes one", minSecretKey)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("--secret-key: %w", err)
	}
	return s, nil
}

// parseSecret reads fields, of which src, source and env are always known. No error
// quotes what may be the secret itself, given by mistake.
func parseSecret(text string, known ...string) (*Secret, error) {
	words, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, errors.New("it is not like id=ID,src=FILE")
	}
	fields := map[string]string{}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if name == "source" {
			name = "src"
		}
		if !ok || !slices.Contains(append(known, "src", "env"), name) {
			return nil, fmt.Errorf("what stands before a = should be one of %s", strings.Join(append(known, "src", "env"), ", "))
		}
		fields[name] = value
	}
	s := &Secret{ID: fields["id"], env: fields["env"]}
	if key := fields["key"]; key != "" {
		if s.Keyed, err = strconv.ParseBool(key); err != nil {
			return nil, errors.New("key should be true or false")
		}
	}
	if err := s.find(fields["type"], fields["src"]); err != nil {
		if s.ID != "" {
			err = fmt.Errorf("id=%s: %w", s.ID, err)
		}
		return nil, err
	}
	return s, nil
}

// find makes out where the value is, and that it is there.
func (s *Secret) find(kind, file string) error {
	_, isVariable := os.LookupEnv(s.ID)
	switch {
	case kind != "" && kind != "file" && kind != "env":
		return errors.New("type should be file or env")
	case file != "" && s.env != "":
		return errors.New("it has a src and an env: choose one")
	case kind == "env" && s.env == "":
		s.env, file = cmp.Or(file, s.ID), "" // docker takes src for the variable's name
	case file == "" && s.env == "" && isVariable && kind == "":
		s.env = s.ID
	case file == "" && s.env == "":
		file = s.ID
	}
	if s.env != "" {
		return s.inVariable()
	}
	return s.inFile(file)
}

func (s *Secret) inVariable() error {
	value, ok := os.LookupEnv(s.env)
	if !ok {
		return fmt.Errorf("the variable %s is not set", s.env)
	}
	if len(value) > maxSecret {
		return errTooLong
	}
	s.value = func() ([]byte, error) { return []byte(value), nil }
	return nil
}

var errTooLong = fmt.Errorf("it is longer than %d KiB", maxSecret>>10)

// inFile finds a file, which can be a pipe from another program; that can be read
// only once.
func (s *Secret) inFile(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a folder", path)
	case s.Keyed && !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file, and can be read only once: key=true reads it for each look into the cache", path)
	case info.Size() > maxSecret:
		return errTooLong
	}
	s.value = sync.OnceValues(func() ([]byte, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		value, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
		if err == nil && len(value) > maxSecret {
			err = errTooLong
		}
		return value, err
	})
	return nil
}

// checkSecrets warns of secrets that no layer names.
func (b *Builder) checkSecrets() {
	var known []string
	for _, l := range b.graph.Layers {
		for _, s := range l.Secrets {
			known = append(known, s.ID)
		}
	}
	for _, s := range b.Secrets {
		if !slices.Contains(known, s.ID) {
			b.report(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("--secret id=%s: no layer of this build has a secret %q%s", s.ID, s.ID, layers.DidYouMean(s.ID, known))})
		}
	}
}

// secret returns the secret that is called id, or nil. As of all flags, the last counts.
func (b *Builder) secret(id string) *Secret {
	for _, s := range slices.Backward(b.Secrets) {
		if s.ID == id {
			return s
		}
	}
	return nil
}

// environWithoutSecrets returns this process's environment without the variables that
// secrets and the key of remote caches come from: no build_env_passthrough lets them in.
func (o Options) environWithoutSecrets() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name == SignKeyVariable || slices.ContainsFunc(o.Secrets, func(s *Secret) bool { return s.env == name })
	})
}

// addMounts adds what the scripts of a layer see of secrets and caches: where they
// are; of keyed secrets what they are, as keyed digests.
func (b *Builder) addMounts(in *buildcache.Inputs, l *layers.Layer) error {
	var places []string
	added := map[string]bool{}
	for _, s := range l.Secrets {
		if s.Target != "" {
			places = append(places, "file "+s.Target)
		}
		if s.Env != "" {
			places = append(places, "variable "+s.Env)
		}
		given := b.secret(s.ID)
		if given == nil || !given.Keyed || added[s.ID] {
			continue
		}
		added[s.ID] = true
		input, err := b.keyedSecret(given)
		if err != nil {
			return fail(l, s.Pos, fmt.Errorf("secret %q: %w", s.ID, err))
		}
		*in = append(*in, input)
	}
	addPlaces(in, "secrets", places)
	places = nil
	for _, c := range l.Caches {
		places = append(places, c.Path)
	}
	addPlaces(in, "caches", places)
	addPlaces(in, "tmpfs", l.Tmpfs)
	return nil
}

// addPlaces adds where mounts of some kind are, if there are any.
func addPlaces(in *buildcache.Inputs, name string, places []string) {
	if len(places) > 0 {
		slices.Sort(places)
		in.Add(buildcache.Definition, name, strings.Join(places, "\n"))
	}
}

func (b *Builder) keyedSecret(s *Secret) (buildcache.Input, error) {
	value, err := s.value()
	if err != nil {
		return buildcache.Input{}, err
	}
	var key []byte
	if b.SecretKey != nil {
		if key, err = b.SecretKey.value(); err != nil {
			return buildcache.Input{}, err
		}
	}
	return b.Cache.SecretInput(bytes.TrimSpace(key), s.ID, value)
}

// haveSecrets fails when a layer that is to be built needs a secret that is not given.
func (b *Builder) haveSecrets(l *layers.Layer) error {
	for _, s := range l.Secrets {
		if !s.Optional && b.secret(s.ID) == nil {
			return fail(l, s.Pos, fmt.Errorf("secret %q is not given: add --secret id=%s,src=FILE or --secret id=%s,env=VARIABLE", s.ID, s.ID, s.ID))
		}
	}
	return nil
}

// addSecrets shows a step the secrets of its layer, and returns what hides them in
// what the step writes.
func (b *Builder) addSecrets(step *sandbox.Step, l *layers.Layer) (*mask, error) {
	if err := b.haveSecrets(l); err != nil {
		return nil, err
	}
	var values [][]byte
	for _, s := range l.Secrets {
		given := b.secret(s.ID)
		if given == nil {
			continue
		}
		value, err := given.value()
		if err == nil && s.Env != "" && (!utf8.Valid(value) || bytes.IndexByte(value, 0) >= 0) {
			err = fmt.Errorf("it is not UTF-8 text, which the variable %s must be: give it a target instead", s.Env)
		}
		if err != nil {
			return nil, fail(l, s.Pos, fmt.Errorf("secret %q: %w", s.ID, err))
		}
		if s.Target != "" {
			step.Files = append(step.Files, sandbox.File{Dest: s.Target, Content: value})
		}
		if s.Env != "" {
			step.Env = append(step.Env, s.Env+"="+string(value))
		}
		values = append(values, value)
	}
	return newMask(values), nil
}
