package registry

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/layerbuild/layerbuild/redact"
)

// A Version identifies one state of a file by what its server says of it. Empty fields,
// and a Length of -1, are unknown.
type Version struct {
	URL          string // where redirects led, without passwords and signatures
	ETag         string
	LastModified string // if any later change must have another one
	Length       int64
	SHA256       string // as the server says, in hexadecimal
}

// versionOf returns the version that a response describes.
func versionOf(resp *http.Response, now time.Time) Version {
	v := Version{
		URL:          finalURL(resp.Request.URL),
		ETag:         resp.Header.Get("ETag"),
		LastModified: lastModified(resp.Header, now),
		Length:       resp.ContentLength,
	}
	if len(v.ETag) > 1000 || v.ETag == `""` { // too long to keep, or no identity
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

// validator returns the strong ETag or Last-Modified by which a request can name exactly
// these bytes, or "".
func (v Version) validator() string {
	if v.URL == "" { // it may be another file's
		return ""
	}
	if strong(v.ETag) {
		return v.ETag
	}
	return v.LastModified
}

// Continues reports whether a part of the version can be continued.
func (v Version) Continues() bool { return v.validator() != "" }

// contradicts reports whether a response is of another version: whatever both name must
// be equal. That includes times, since a file may be rolled back to an older one.
func (v Version) contradicts(resp *http.Response) bool {
	if v.URL != finalURL(resp.Request.URL) {
		return true
	}
	etag, modified := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	return v.ETag != "" && etag != "" && v.ETag != etag ||
		v.LastModified != "" && modified != "" && v.LastModified != modified
}

// is reports whether the head of a whole response proves that its body is the version: by
// a strong ETag, or by a strong Last-Modified and the length.
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

// finalURL returns the URL that a file came from without its secrets, and without
// signatures, which change although the file does not.
func finalURL(u *url.URL) string {
	plain := *u
	plain.User, plain.Fragment, plain.RawFragment = nil, "", ""
	params := strings.Split(u.RawQuery, "&")
	if slices.ContainsFunc(params, func(p string) bool { return signatures[paramName(p)] }) {
		params = slices.DeleteFunc(params, func(p string) bool { return ofSignature(paramName(p)) })
	}
	plain.RawQuery = strings.Join(params, "&")
	return redact.URL(plain.String())
}

func paramName(param string) string {
	name, _, _ := strings.Cut(param, "=")
	return strings.ToLower(name)
}

// signatures are the parameters that sign a URL of S3, Google Cloud Storage, CloudFront
// or Azure.
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
