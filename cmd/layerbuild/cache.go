package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/buildcache/remote"
)

func newCacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Work with remote caches",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newKeygenCommand())
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
