package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"

	"github.com/layerbuild/layerbuild/program"
)

// Credentials names the files that logins are looked up in. No error quotes their content.
type Credentials struct {
	// Files have the form of containers-auth.json(5), which is that of docker's
	// config.json. The first file with a login is used. Within a file, the credential
	// helper of the host comes first, then the entry with the longest path, then the
	// helper for all hosts.
	Files []string

	// Netrc is a netrc(5) file for http(s) URLs, used last; "" for none.
	Netrc string

	named bool // by $REGISTRY_AUTH_FILE, so that it must be readable
}

// DefaultCredentials returns $REGISTRY_AUTH_FILE, or else podman's and docker's files,
// and $NETRC or ~/.netrc.
func DefaultCredentials() Credentials {
	home, _ := os.UserHomeDir()
	c := Credentials{Netrc: os.Getenv("NETRC")}
	if c.Netrc == "" && home != "" {
		c.Netrc = filepath.Join(home, ".netrc")
	}
	if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		c.Files, c.named = []string{file}, true
		return c
	}
	runtimeDir := cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), filepath.Join("/run", "containers", strconv.Itoa(outsideUID())))
	if os.Getenv("XDG_RUNTIME_DIR") != "" {
		runtimeDir = filepath.Join(runtimeDir, "containers")
	}
	c.Files = append(c.Files, filepath.Join(runtimeDir, "auth.json"))
	if dir, err := os.UserConfigDir(); err == nil {
		c.Files = append(c.Files, filepath.Join(dir, "containers/auth.json"))
	}
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		c.Files = append(c.Files, filepath.Join(dir, "config.json"))
	} else if home != "" {
		c.Files = append(c.Files, filepath.Join(home, ".docker/config.json"))
	}
	return c
}

// outsideUID returns the id of the user who started the program, who is root only
// within the program's own user namespace.
func outsideUID() int {
	if !userns.RunningInUserNS() {
		return os.Getuid()
	}
	ids, err := user.ParseIDMapFile("/proc/self/uid_map")
	if err != nil || len(ids) == 0 {
		return os.Getuid()
	}
	return int(ids[0].ParentID)
}

// A target identifies a server, or a part of one, in auth files.
type target struct {
	hosts  []string // it may be known by, the best first
	path   string   // below the host: "" or "/a/b"
	server string   // its name for credential helpers; "" for that of the host
}

// targetOf returns the target of a repository.
func targetOf(repo name.Repository) target {
	host := repo.RegistryStr()
	t := target{hosts: plainHostNames(host), path: "/" + repo.RepositoryStr()}
	if host == name.DefaultRegistry {
		t.server = authn.DefaultAuthKey
	}
	return t
}

// plainHostNames returns the names that a registry has in configuration files.
func plainHostNames(host string) []string {
	if host == name.DefaultRegistry {
		return []string{host, "docker.io"}
	}
	return []string{host}
}

// targetOfURL returns the target of a URL. Its host matches with the port first, then
// without.
func targetOfURL(u *url.URL) target {
	host := strings.ToLower(u.Host)
	t := target{hosts: []string{host}, path: strings.TrimRight(u.EscapedPath(), "/")}
	if bare := strings.ToLower(u.Hostname()); bare != host {
		t.hosts = append(t.hosts, bare)
	}
	return t
}

// ForURL returns the user and password for an http(s) URL: its own, else those in Files,
// else those in Netrc, else nil. It runs a helper for all hosts only if every is set: such
// helpers are slow, and may ask people to unlock something.
func (c Credentials) ForURL(ctx context.Context, u *url.URL, every bool) (*url.Userinfo, error) {
	if u.User != nil {
		return u.User, nil
	}
	found, _, err := c.lookup(ctx, targetOfURL(u), every)
	if err != nil {
		return nil, err
	}
	if found != nil && found.Username != "" { // others have tokens, which only registries take
		return url.UserPassword(found.Username, found.Password), nil
	}
	return c.netrc(u.Hostname())
}

// lookup returns the login for a target and the file it comes from, or nil and "". It
// runs a helper for all hosts only if every is set.
func (c Credentials) lookup(ctx context.Context, t target, every bool) (*authn.AuthConfig, string, error) {
	for _, file := range c.Files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && !c.named {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("credentials: %w", err)
		}
		found, err := lookupIn(ctx, data, t, every)
		if err != nil {
			return nil, "", fmt.Errorf("credentials: %s: %w", file, err)
		}
		if found != nil {
			return found, file, nil
		}
	}
	return nil, "", nil
}

// An authFile is a parsed file of credentials.
type authFile struct {
	Auths       map[string]json.RawMessage `json:"auths"` // each an authn.AuthConfig
	CredHelpers map[string]string          `json:"credHelpers"`
	CredsStore  string                     `json:"credsStore"`
}

// parseAuthFile parses a file of credentials. It returns hosts in lower case, without the
// scheme and API version that old versions of docker wrote.
func parseAuthFile(data []byte) (*authFile, error) {
	var raw authFile
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, errors.New("not JSON as in containers-auth.json(5)")
	}
	f := &authFile{map[string]json.RawMessage{}, map[string]string{}, raw.CredsStore}
	for key, entry := range raw.Auths {
		plain := authKey(key)
		if _, has := f.Auths[plain]; !has || plain == key { // the plain form counts more
			f.Auths[plain] = entry
		}
	}
	for key, helper := range raw.CredHelpers {
		plain := authKey(key)
		if _, has := f.CredHelpers[plain]; !has || plain == key {
			f.CredHelpers[plain] = helper
		}
	}
	return f, nil
}

// authKey turns a key of an auth file, which may be a URL, into host and path.
func authKey(key string) string {
	_, rest, isURL := strings.Cut(key, "://")
	if !isURL {
		rest = key
	}
	host, path, _ := strings.Cut(strings.TrimRight(rest, "/"), "/")
	if isURL && (path == "v1" || path == "v2") {
		path = ""
	}
	return strings.TrimRight(strings.ToLower(host)+"/"+path, "/")
}

// lookupIn returns nil when the file has no login for the target.
func lookupIn(ctx context.Context, data []byte, t target, every bool) (*authn.AuthConfig, error) {
	f, err := parseAuthFile(data)
	if err != nil {
		return nil, err
	}
	for _, host := range t.hosts {
		if helper := f.CredHelpers[host]; helper != "" {
			return ask(ctx, helper, cmp.Or(t.server, host))
		}
	}
	for _, host := range t.hosts {
		if found, err := f.entry(host, t.path); found != nil || err != nil {
			return found, err
		}
	}
	if f.CredsStore != "" && every {
		return ask(ctx, f.CredsStore, cmp.Or(t.server, t.hosts[0]))
	}
	return nil, nil
}

// entry returns the login of the longest path, or nil.
func (f *authFile) entry(host, path string) (*authn.AuthConfig, error) {
	for {
		if entry, ok := f.Auths[host+path]; ok {
			var auth authn.AuthConfig
			if err := json.Unmarshal(entry, &auth); err != nil {
				return nil, fmt.Errorf("the entry of %s has no login that can be read", host+path)
			}
			if auth != (authn.AuthConfig{}) { // an empty one refers to credsStore
				return &auth, nil
			}
		}
		cut := strings.LastIndexByte(path, '/')
		if cut < 0 {
			return nil, nil
		}
		path = path[:cut]
	}
}

// ask runs a credential helper, by docker's protocol. It returns nil when the helper
// has no login for the server.
func ask(ctx context.Context, helper, server string) (*authn.AuthConfig, error) {
	helper = "docker-credential-" + helper
	cmd := program.Command(ctx, helper, "get")
	program.Environment(cmd, func(string) bool { return true }) // its settings are the user's
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = 100 * time.Millisecond // for what it has started, once it is killed
	var out bytes.Buffer
	cmd.Stdout = &out // where the protocol has errors, too
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if strings.Contains(out.String(), "credentials not found") {
			return nil, nil
		}
		return nil, fmt.Errorf("credential helper %s: %w%s", helper, err, quoted(strings.TrimSpace(out.String())))
	}
	var found struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		return nil, fmt.Errorf("credential helper %s: its answer is not JSON", helper)
	}
	if found.Username == "<token>" {
		return &authn.AuthConfig{IdentityToken: found.Secret}, nil
	}
	return &authn.AuthConfig{Username: found.Username, Password: found.Secret}, nil
}
