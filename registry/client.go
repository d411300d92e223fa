package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// Options configure a Client. The zero value suits a build.
type Options struct {
	// Username and Password log in everywhere, instead of the credentials files.
	Username, Password string

	// Allow is what messages tell the user to set to allow insecure connections;
	// `insecure: true` by default.
	Allow string

	FirstByte time.Duration // limit until a response begins; a minute by default
	Stall     time.Duration // limit without progress; a minute by default
	Pause     time.Duration // before the second attempt, increasing after it; 300 ms by default
	Attempts  int           // per request; 4 by default
}

// A Client reads from and writes to registries, and downloads files. It keeps
// connections and logins, and is safe for concurrent use.
type Client struct {
	options     Options
	credentials Credentials
	certs       certFolders
	conf        func() (registriesConf, error)
	files       http.RoundTripper // of downloads

	mu           sync.Mutex
	repositories map[place]*Repository
	seen         map[digest.Digest][]name.Repository // where blobs are
}

// A place is a repository at one registry, and how it is accessed.
type place struct {
	repo     name.Repository
	insecure bool
	access   Access
}

// New returns a Client with the credentials, certificates and mirrors of the environment.
func New(o Options) *Client {
	o.Allow = cmp.Or(o.Allow, "`insecure: true`")
	o.FirstByte, o.Stall = cmp.Or(o.FirstByte, time.Minute), cmp.Or(o.Stall, time.Minute)
	o.Pause, o.Attempts = cmp.Or(o.Pause, 300*time.Millisecond), cmp.Or(o.Attempts, 4)
	return &Client{
		options:      o,
		credentials:  DefaultCredentials(),
		certs:        defaultCertFolders(),
		conf:         sync.OnceValues(readRegistriesConf),
		files:        connections(&tls.Config{}, o),
		repositories: map[place]*Repository{},
		seen:         map[digest.Digest][]name.Repository{},
	}
}

// at returns the repository at a place, always the same one.
func (c *Client) at(p place) *Repository {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.repositories[p]
	if r == nil {
		r = &Repository{client: c, name: p.repo, insecure: p.insecure, access: p.access, login: c.loginOf(p.repo)}
		c.repositories[p] = r
	}
	return r
}

func (c *Client) loginOf(repo name.Repository) *login {
	if c.options.Username != "" {
		return &login{config: &authn.AuthConfig{Username: c.options.Username, Password: c.options.Password}, from: given}
	}
	return &login{find: func(ctx context.Context) (*authn.AuthConfig, string, error) {
		return c.credentials.lookup(ctx, targetOf(repo), true)
	}}
}
