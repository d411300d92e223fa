package registry

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Version is what a server says of one state of a file, to tell it from others. What
// is empty, or -1 for Length, is not known.
type Version struct {
	URL          string // where redirects led, without passwords and signatures
	ETag         string
	LastModified string // if any later change must have another one
	Length       int64
	SHA256       string // as the server says, in hexadecimal
}

// versionOf returns what a response says of its file.
func versionOf(resp *http.Response, now time.Time) Version {
	v := Version{
		URL:          finalURL(resp.Request.URL),
		ETag:         resp.Header.Get("ETag"),
		LastModified: lastModified(resp.Header, now),
		Length:       resp.ContentLength,
	}
	if len(v.ETag) > 1000 || v.ETag == `""` { // nothing to keep, or to tell versions by
		v.ETag = ""
	}
	if sum := strings.ToLower(resp.Header.Get("X-Checksum-Sha256")); isDigest(digest.Digest("sha256:" + sum)) {
		v.SHA256 = sum
	}
	return v
}

// lastModified returns the header's Last-Modified if it is strong: it has whole seconds,
// so a file that was young when it was sent may have changed since and kept it. It must
// be a minute older than both the server's Date and our clock, of which one may be wrong
// (RFC 9110, 8.8.2.2, with the minute that RFC 7232 asked for).
func lastModified(h http.Header, now time.Time) string {
	modified, err1 := http.ParseTime(h.Get("Last-Modified"))
	sent, err2 := http.ParseTime(h.Get("Date"))
	if err1 != nil || err2 != nil || sent.Sub(modified) < time.Minute || now.Sub(modified) < time.Minute {
		return ""
	}
	return h.Get("Last-Modified")
}

// strong reports whether an ETag stands for the same bytes (RFC 9110, 8.8.1).
func strong(etag string) bool {
	return etag != "" && !strings.HasPrefix(etag, "W/") && !strings.HasPrefix(etag, "w/")
}

// validator returns what another request can name the version by, and be sure of its
// bytes: a strong ETag or Last-Modified; or "".
func (v Version) validator() string {
	if v.URL == "" { // then it may be another file's
		return ""
	}
	if strong(v.ETag) {
		return v.ETag
	}
	return v.LastModified
}

// Continues reports whether the rest of the version can be asked for, if a part of it is
// here.
func (v Version) Continues() bool { return v.validator() != "" }

// contradicts reports whether a response cannot be of the version: what both say must
// be equal. Times are compared for equality, since older files replace newer ones, too.
func (v Version) contradicts(resp *http.Response) bool {
	if v.URL != finalURL(resp.Request.URL) {
		return true
	}
	etag, modified := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	return v.ETag != "" && etag != "" && v.ETag != etag ||
		v.LastModified != "" && modified != "" && v.LastModified != modified
}

// is reports whether a whole response, whose body need not be read then, is of the
// version: by a strong ETag, or by a strong Last-Modified and the length.
func (v Version) is(resp *http.Response) bool {
	length := resp.ContentLength
	if v.contradicts(resp) || length >= 0 && length != v.Length {
		return false
	}
	if strong(v.ETag) && v.ETag == resp.Header.Get("ETag") {
		return true
	}
	return length >= 0 && v.LastModified != "" && v.LastModified == resp.Header.Get("Last-Modified")
}

// finalURL returns what is to be kept of the URL that a file came from: nothing secret,
// and nothing that changes although the file does not, as signatures do.
func finalURL(u *url.URL) string {
	plain := *u
	plain.User, plain.Fragment, plain.RawFragment = nil, "", ""
	params := strings.Split(u.RawQuery, "&")
	if slices.ContainsFunc(params, func(p string) bool { return signatures[paramName(p)] }) {
		params = slices.DeleteFunc(params, func(p string) bool { return ofSignature(paramName(p)) })
	}
	plain.RawQuery = strings.Join(params, "&")
	return Redact(plain.String())
}

func paramName(param string) string {
	name, _, _ := strings.Cut(param, "=")
	return strings.ToLower(name)
}

// signatures are the parameters that make a URL a signed one: of S3, Google's storage,
// CloudFront, and Azure's.
var signatures = map[string]bool{"x-amz-signature": true, "x-goog-signature": true, "signature": true, "sig": true}

// ofSignature reports whether a parameter of a signed URL belongs to the signature.
func ofSignature(name string) bool {
	switch name {
	case "signature", "expires", "policy", "key-pair-id", "awsaccesskeyid", "googleaccessid", // CloudFront, S3 and Google, version 2
		"sig", "sv", "ss", "srt", "sr", "sp", "st", "se", "spr", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv", "jwt": // Azure
		return true
	}
	return strings.HasPrefix(name, "x-amz-") || strings.HasPrefix(name, "x-goog-")
}
