package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/layerbuild/layerbuild/engine"
)

func newUnprivSetupCommand(s *settings) *cobra.Command {
	var name, uid, gid string
	cmd := &cobra.Command{
		Use:   "unpriv-setup",
		Short: "Let a user build without being root",
		Long: `Give a user the subordinate ids, in /etc/subuid and /etc/subgid, that images need
for the owners of their files, unless the user has them, and what --state-dir
names. It is run once, as root, with sudo by that very user or with --username.
` + "`layerbuild check`" + ` says to the user whether all is there.`,
		Example: `  sudo layerbuild unpriv-setup
  layerbuild unpriv-setup --username builder --state-dir /var/cache/builder`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := setupUser(name, uid, gid)
			if err != nil {
				return err
			}
			state := ""
			if cmd.Flags().Changed("state-dir") {
				state = s.stateDir
			}
			done, err := engine.UnprivSetup(u, state)
			for _, line := range done {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			if err == nil && len(done) == 0 && !s.quiet {
				fmt.Fprintf(cmd.OutOrStdout(), "%s has all that it takes\n", u.Name)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "username", os.Getenv("SUDO_USER"), "the `NAME` of the user (default: the user who runs sudo)")
	flags.StringVar(&uid, "uid", "", "the `UID` of the user, if there is no name or it is not in /etc/passwd")
	flags.StringVar(&gid, "gid", "", "the `GID` of the user's group (default: that in /etc/passwd)")
	return cmd
}

// setupUser finds out who is meant.
func setupUser(name, uid, gid string) (u engine.User, err error) {
	var found *user.User
	switch {
	case uid != "":
		found, err = user.LookupId(uid)
	case name != "":
		found, err = user.Lookup(name)
	default:
		return u, errors.New("whom is it for? Give --username, or run it with sudo")
	}
	if err != nil && (uid == "" || gid == "") {
		return u, fmt.Errorf("%w: give --uid, --gid and --username of a user that is not in /etc/passwd", err)
	}
	if err == nil && (uid == "" || name == "" || name == os.Getenv("SUDO_USER")) {
		name = found.Username
	}
	if err == nil {
		uid = found.Uid
		if gid == "" {
			gid = found.Gid
		}
	}
	if u.UID, err = strconv.Atoi(uid); err != nil || u.UID <= 0 {
		return u, fmt.Errorf("--uid is %q: it should be the number of a user who is not root", uid)
	}
	if u.GID, err = strconv.Atoi(gid); err != nil || u.GID < 0 {
		return u, fmt.Errorf("--gid is %q: it should be the number of a group", gid)
	}
	if u.Name = name; name == "" {
		u.Name = uid
	}
	return u, nil
}
