package main

import (
	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

// secretFlags are the flags of commands that run what needs secrets.
type secretFlags struct {
	secrets []string
	key     string
}

func (f *secretFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.secrets, "secret", nil, "give layers that name it a secret, as `id=ID,src=FILE` or id=ID,env=VARIABLE; with ,key=true they are built again when it changes; repeatable")
	flags.StringVar(&f.key, "secret-key", "", "what digests of secrets with key=true are keyed with, as `src=FILE` or env=VARIABLE; machines with the same key share what is built (default: the state folder's own)")
}

func (f *secretFlags) parse(o *engine.Options) (err error) {
	for _, text := range f.secrets {
		secret, err := engine.ParseSecret(text)
		if err != nil {
			return err
		}
		o.Secrets = append(o.Secrets, secret)
	}
	if f.key != "" {
		o.SecretKey, err = engine.ParseSecretKey(f.key)
	}
	return err
}
