// Package registry is layerbuild's only HTTP client: for images, manifests and blobs
// in registries, and for files behind http(s) URLs.
//
// A Client keeps connections, logins and settings. It gives an Image to read from
// wherever the mirrors of registries.conf say, or a Repository to read from and write
// to exactly where a name says.
//
// Both survive what networks and servers do. A request that fails for the moment is
// repeated after the time the server asks for. A blob that is cut is continued where it
// was cut, here or at the next mirror. An answer that stands still is given up. A login
// that has expired is looked up once more. What is asked for by digest is compared with
// that digest before anyone sees it.
//
// Credentials, certificates and mirrors are those that podman, skopeo and docker use:
// containers-auth.json(5) with credential helpers, netrc(5) for files,
// containers-certs.d(5) and containers-registries.conf(5). Proxies are those of
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY. Plain http needs a host of the loopback, or
// permission.
//
// No error of the package holds a password, a token or a signed URL. Each wraps one of
// ErrUnreachable, ErrUnauthorized, ErrForbidden, ErrNotFound, ErrTooManyRequests,
// ErrServer, or ErrCorrupt where it is one of these.
package registry
