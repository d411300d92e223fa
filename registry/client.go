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

// Options of a Client. The zero value is what a build wants.
type Options struct {
	// Username and Password log in everywhere, instead of the credentials files.
	Username, Password string

	// Allow is how the user allows what is insecure, for messages: `insecure: true` by
	// default.
	Allow string

	FirstByte time.Duration // until an answer begins; a minute by default
	Stall     time.Duration // for which nothing may come or go; a minute by default
	Pause     time.Duration // before the second attempt, longer before further ones; 300 ms by default
	Attempts  int           // at one request; 4 by default
}

// A Client reads from and writes to registries, and downloads files. It keeps
// connections and logins, and may be used by many goroutines.
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

// A place is a repository at one registry, and what is allowed and done there.
type place struct {
	repo     name.Repository
	insecure bool
	access   Access
}

// New returns a Client that finds credentials, certificates and mirrors where the
// environment says.
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

// at returns the repository at a place, the same one each time.
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
