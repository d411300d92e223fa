package registry

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/layerbuild/layerbuild/registry/registrytest"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "7": 7 * time.Second, "x": 0, "Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"99999999999": 1e6 * time.Second,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	for seconds, again := range map[string]bool{"60": true, "61": false} {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {seconds}}}
		if wait, got := retry(resp, nil, time.Second, 1); got != again || got && wait != time.Minute {
			t.Errorf("%s: %v, %v", seconds, wait, got)
		}
	}
}

func TestInsecure(t *testing.T) {
	for _, start := range []func(http.Handler) *httptest.Server{httptest.NewServer, httptest.NewTLSServer} {
		server := registrytest.Serve(t, start)
		img := registrytest.Image(t, 100)
		ref := Ref{Name: server.Push("app", img, remote.WithTransport(newTransport(&tls.Config{}, true, impatient().options)))}
		ref.Insecure = true
		base, err := take(t, impatient(), ref)
		if err != nil || base != registrytest.Digest(t, img) {
			t.Error(err)
		}
	}
}

// Credentials and images do not go over plain http unless they may, wherever a
// registry sends us.
func TestPlainHTTPIsRefused(t *testing.T) {
	next := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	})
	for target, allowed := range map[string]bool{
		"http://10.1.2.3/v2/": false, "http://registry.example/x": false, "http://127.0.0.1:5000/": true, "http://localhost/": true,
		"http://[::1]:5000/": true, "https://registry.example/": true, "http://localhost.example/": false,
	} {
		u, err := url.Parse(target)
		must(t, err)
		for _, insecure := range []bool{false, true} {
			resp, err := (&patient{next: next, insecure: insecure}).RoundTrip(&http.Request{URL: u})
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != (allowed || insecure) || err != nil && !errors.Is(err, errPlain) {
				t.Errorf("%s, insecure %v: %v", target, insecure, err)
			}
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// The environment's proxy is used. net/http reads it once a process, so this needs
// one of its own.
func TestProxy(t *testing.T) {
	if os.Getenv("REGISTRY_TEST_PROXY") != "" {
		_, err := take(t, impatient(), Ref{Name: "registry.invalid/app", Insecure: true})
		must(t, err)
		return
	}
	server := registrytest.Serve(t, httptest.NewServer)
	server.Push("app", registrytest.Image(t, 100))
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if req.URL.Host != "registry.invalid" {
			t.Errorf("the proxy is asked for %s", req.URL)
		}
		registrytest.Forward(w, req, server.Host)
	}))
	defer proxy.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestProxy$")
	child.Env = append(os.Environ(), "REGISTRY_TEST_PROXY=1", "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Whatever a server says, nobody waits for ever.
func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "120", "-1", "9223372036854775807", "99999999999999999999", "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		resp := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {value}}}
		if wait, again := retry(resp, nil, time.Second, 1); again && (wait < time.Second || wait > maxWait) {
			t.Errorf("%q: waiting for %s", value, wait)
		}
	})
}
