package registry

import (
	"context"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
)

// A login identifies the user to one repository. It is looked up when first needed, and
// again after it was rejected, since helpers may return tokens that expire within
// minutes. It implements authn.ContextAuthenticator.
type login struct {
	find func(context.Context) (*authn.AuthConfig, string, error) // nil where it was given

	mu     sync.Mutex
	config *authn.AuthConfig // nil before it was looked up
	from   string            // the file that has it; "" for none
}

// given is where a login is from that the Client was given.
const given = "Options"

// Authorization is a method of authn.Authenticator.
func (l *login) Authorization() (*authn.AuthConfig, error) {
	return l.AuthorizationContext(context.Background())
}

// AuthorizationContext is a method of authn.ContextAuthenticator.
func (l *login) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.config != nil {
		return l.config, nil
	}
	_, err := l.lookup(ctx)
	return l.config, err
}

// renew looks the login up again, and reports whether it has changed.
func (l *login) renew(ctx context.Context) (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.find == nil {
		return false, nil
	}
	return l.lookup(ctx)
}

func (l *login) lookup(ctx context.Context) (changed bool, err error) {
	found, from, err := l.find(ctx)
	if err != nil {
		return false, err
	}
	if found == nil {
		found = &authn.AuthConfig{}
	}
	changed = l.config == nil || *found != *l.config
	l.config, l.from = found, from
	return changed, nil
}

// source returns where the login is from, "" if there is none.
func (l *login) source() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from
}
