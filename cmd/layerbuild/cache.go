package main

import (
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/buildcache"
	"github.com/layerbuild/layerbuild/buildcache/remote"
	"github.com/layerbuild/layerbuild/engine"
)

func newCacheCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Work with remote caches",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newKeygenCommand(), newDistrustCommand(s))
	return cmd
}

func newKeygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make a key that signs what is written to remote caches",
		Long: `Make an ed25519 key: FILE holds the private key, for --cache-sign-key, and FILE.pub
the public key, for --cache-verify-key. Both are PEM, as openssl writes them. Whoever
has the private key decides what those build who trust it.

The key's ID is printed; it is what records say who vouched for them.`,
		Example: `  layerbuild cache keygen cache.key
  layerbuild build --cache-to registry.example.com/team/cache --cache-sign-key cache.key
  layerbuild build --cache-from registry.example.com/team/cache --cache-verify-key cache.key.pub`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			private, public, err := remote.GenerateKey()
			if err != nil {
				return err
			}
			if err := writeNew(args[0], private, 0o600); err != nil {
				return err
			}
			if err := writeNew(args[0]+".pub", public, 0o644); err != nil {
				return err
			}
			key, err := remote.ParsePublicKey(public)
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), key.ID())
			}
			return err
		},
	}
}

func newDistrustCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "distrust KEY",
		Short: "Forget what a key vouched for, and what was built on it",
		Long: `Remove the records from the state folder that a key vouched for first, and those of
whatever was built on them: the next build makes them again, or finds those of keys
that are still trusted. KEY is the file of a public key or a key's ID; "registry" is
what was taken from places with trust=registry.

Give the key to no build any more: --cache-verify-key would let it back in.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := keyID(args[0])
			if err != nil {
				return err
			}
			removed, err := engine.Distrust(cmd.Context(), s.stateDir, id)
			fmt.Fprintf(cmd.OutOrStdout(), "removed %d records\n", removed)
			return err
		},
	}
}

var idForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// keyID returns the ID of a key that is named by its file or by its ID.
func keyID(name string) (string, error) {
	if name == buildcache.VouchRegistry || idForm.MatchString(name) {
		return name, nil
	}
	text, err := keyText(name)
	if err != nil {
		return "", fmt.Errorf("key %s: %w", name, err)
	}
	key, err := remote.ParsePublicKey(text)
	if err != nil {
		return "", fmt.Errorf("key %s: %w", name, err)
	}
	return key.ID(), nil
}

// writeNew makes a file, and fails where there is one.
func writeNew(path string, data []byte, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}
