// Package remote shares records of the cache, and the blobs that they name, through
// registries and folders.
//
// Records travel in bundles. A Bundle holds all records of a layer and of what it
// is built on, so that one request answers for a chain of any depth. It is stored
// under a tag that is computed without any record: that of a recipe, or of a scope.
// Neither is an identity. A reader takes the records of a bundle in and looks them
// up by their keys, which it computes itself, so a bundle that is stale, foreign or
// malicious can miss and nothing worse.
//
// A bundle is sealed in a DSSE envelope before it leaves, and opened, which verifies
// it, before anything of it is believed. A Repository keeps it as the config of an
// OCI image manifest whose layers are the blobs that the records name: the registry's
// own collection keeps them while the bundle lives, and frees them with it.
//
// docs/remote-cache.md describes the format.
package remote

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/layerbuild/layerbuild/buildcache"
)

// FormatVersion is the version of bundles. A reader misses on a newer one.
const FormatVersion = 1

// Media types. ConfigType is that of the config and of the whole artifact, PayloadType
// that of what an envelope holds.
const (
	ConfigType  = "application/vnd.layerbuild.cache.v1+json"
	PayloadType = "application/vnd.layerbuild.cache.v1+json+zstd"
)

// Why a bundle is of no use.
var (
	// ErrNotFound reports that a repository has nothing under a tag or digest.
	ErrNotFound = errors.New("not in the remote cache")
	// ErrUntrusted reports that no trusted key signed a bundle for its tag.
	ErrUntrusted = errors.New("not signed by a trusted key")
	// ErrNewer reports that a newer layerbuild wrote a bundle.
	ErrNewer = errors.New("written by a newer layerbuild")
	// ErrDamaged reports that a bundle is not what the format says.
	ErrDamaged = errors.New("damaged")
)

// tagPrefix begins all tags; rules of registries for the lifecycle of tags go by it.
const tagPrefix = "lb1-"

// RecipeTag returns the tag of the bundle of one or several layers that a build is to
// make, whatever their order.
func RecipeTag(recipes ...buildcache.Key) string {
	if len(recipes) == 1 {
		return tagPrefix + string(recipes[0])
	}
	var all buildcache.Inputs
	for _, recipe := range slices.Compact(slices.Sorted(slices.Values(recipes))) {
		all.Add(buildcache.Definition, string(recipe), "")
	}
	return tagPrefix + string(all.Key("recipes"))
}

// ScopeTag returns the tag of a scope: of a project, which its repository or path
// names, and a branch.
func ScopeTag(project, branch string) string {
	h := sha256.New()
	for _, part := range []string{"scope", project, branch} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return tagPrefix + "scope-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// IsTag reports whether a tag is one that this package makes.
func IsTag(tag string) bool {
	digits, ok := strings.CutPrefix(tag, tagPrefix)
	size := sha256.Size
	if scope, is := strings.CutPrefix(digits, "scope-"); is {
		digits, size = scope, 16
	}
	if !ok || len(digits) != hex.EncodedLen(size) || strings.ToLower(digits) != digits {
		return false
	}
	_, err := hex.DecodeString(digits)
	return err == nil
}
