package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/buildcache/remote"
	"github.com/layerbuild/layerbuild/engine"
)

// remoteFlags are the flags of commands that build with remote caches.
type remoteFlags struct {
	from, to   []string
	signKey    string
	verifyKeys []string
	timeout    time.Duration
}

func (f *remoteFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.from, "cache-from", nil, "read the remote cache `SOURCE`: type=registry,ref=HOST/REPOSITORY or type=local,src=DIR (repeatable)")
	flags.StringArrayVar(&f.to, "cache-to", nil, "write to the remote cache `DESTINATION`: type=registry,ref=HOST/REPOSITORY or type=local,dest=DIR; ,mode=max adds build_only layers (repeatable)")
	flags.StringVar(&f.signKey, "cache-sign-key", "", "sign what is written to remote caches with the ed25519 private key in `FILE`, and trust what it signed")
	flags.StringArrayVar(&f.verifyKeys, "cache-verify-key", nil, "trust what was signed with the key whose public key is in `FILE` (repeatable)")
	flags.DurationVar(&f.timeout, "cache-to-timeout", 10*time.Minute, "wait at most `DURATION` at the end of a build for what is written to remote caches")
}

// parse reads the flags or, of those that are not given, the variables of the environment
// or else the user's config file.
func (f *remoteFlags) parse(cmd *cobra.Command, config *configFile, o *engine.Options) (err error) {
	given := func(flag string) bool { return cmd.Flags().Changed(flag) }
	settle := func(flag, variable string, value *[]string, configured []string) {
		if given(flag) {
			return
		}
		if *value = fieldsOf(os.Getenv(variable)); len(*value) == 0 {
			*value = configured
		}
	}
	settle("cache-from", envCacheFrom, &f.from, config.CacheFrom)
	settle("cache-to", envCacheTo, &f.to, config.CacheTo)
	settle("cache-verify-key", envVerifyKey, &f.verifyKeys, config.CacheVerifyKeys)
	if !given("cache-sign-key") {
		if f.signKey = os.Getenv(engine.SignKeyVariable); f.signKey == "" {
			f.signKey = config.CacheSignKey
		}
	}
	o.Remote.Timeout = f.timeout
	for _, text := range f.from {
		from, err := remote.ParseFrom(text)
		if err != nil {
			return fmt.Errorf("--cache-from %s: %w", text, err)
		}
		o.Remote.From = append(o.Remote.From, *from)
	}
	for _, text := range f.to {
		to, err := remote.ParseTo(text)
		if err != nil {
			return fmt.Errorf("--cache-to %s: %w", text, err)
		}
		o.Remote.To = append(o.Remote.To, *to)
	}
	if err := f.readKeys(&o.Remote); err != nil {
		return err
	}
	return o.Remote.Check()
}

// readRemote reads the flags of a build about remote caches and the output.
func (s *settings) readRemote(cmd *cobra.Command, f *buildFlags) error {
	_, config, err := s.configuration()
	if err != nil {
		return err
	}
	if err := f.remote.parse(cmd, config, &f.Options); err != nil {
		return err
	}
	if f.output != "" {
		if f.Output, err = engine.ParseOutput(f.output); err != nil {
			return fmt.Errorf("--output: %w", err)
		}
	}
	return nil
}

// Variables of the environment that stand for flags. Those of keys hold a file's name, or
// the key itself, as secrets of CI systems do.
const (
	envCacheFrom = "LAYERBUILD_CACHE_FROM"
	envCacheTo   = "LAYERBUILD_CACHE_TO"
	envVerifyKey = "LAYERBUILD_CACHE_VERIFY_KEY"
)

// fieldsOf returns the values that a variable lists, one a line or separated by semicolons.
// A key is one value.
func fieldsOf(text string) []string {
	if isKey(text) {
		return []string{text}
	}
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == ';' })
}

func isKey(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN ") }

func (f *remoteFlags) readKeys(o *engine.Remote) error {
	if f.signKey != "" {
		text, err := keyText(f.signKey)
		if err == nil {
			o.SignKey, err = remote.ParsePrivateKey(text)
		}
		if err != nil {
			return fmt.Errorf("--cache-sign-key%s: %w", nameOf(f.signKey), err)
		}
	}
	for _, name := range f.verifyKeys {
		text, err := keyText(name)
		var key *remote.PublicKey
		if err == nil {
			key, err = remote.ParsePublicKey(text)
		}
		if err != nil {
			return fmt.Errorf("--cache-verify-key%s: %w", nameOf(name), err)
		}
		o.VerifyKeys = append(o.VerifyKeys, key)
	}
	return nil
}

// keyText returns a key that is in a file, or is given itself.
func keyText(name string) ([]byte, error) {
	if isKey(name) {
		return []byte(name), nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	return bytes.TrimSpace(text), nil
}

// nameOf returns what an error calls a key: nothing where it would be the key.
func nameOf(key string) string {
	if isKey(key) {
		return ""
	}
	return " " + key
}
