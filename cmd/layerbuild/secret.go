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
	flags.StringArrayVar(&f.secrets, "secret", nil, "give a `SECRET` to the layers that name it, as id=ID,src=FILE or id=ID,env=VARIABLE, such as id=npmrc,src=.npmrc; ,key=true rebuilds them when it changes (repeatable)")
	flags.StringVar(&f.key, "secret-key", "", "the `KEY` for digests of secrets with key=true, as src=FILE or env=VARIABLE; machines with one key share layers (default: a key of the state folder)")
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
