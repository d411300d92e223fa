package oci

import (
	"encoding/json"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A DockerConfig holds what Docker's image configuration says of a container beyond
// OCI's. Docker, podman and containerd read it from OCI images, too.
type DockerConfig struct {
	Healthcheck *dockerspec.HealthcheckConfig `json:",omitempty"`
	OnBuild     []string                      `json:",omitempty"`
	Shell       []string                      `json:",omitempty"`
	StopTimeout *int                          `json:",omitempty"` // in seconds
}

// configDocument is ispec.Image, field by field in its order, with a DockerConfig: an
// image that has none of it has the same bytes as without.
type configDocument struct {
	Created *time.Time `json:"created,omitempty"`
	Author  string     `json:"author,omitempty"`
	ispec.Platform
	Config  containerConfig `json:"config,omitempty"`
	RootFS  ispec.RootFS    `json:"rootfs"`
	History []ispec.History `json:"history,omitempty"`
}

type containerConfig struct {
	ispec.ImageConfig
	DockerConfig
}

// marshalConfig returns an image's configuration as JSON.
func marshalConfig(c ispec.Image, docker DockerConfig) ([]byte, error) {
	return json.Marshal(configDocument{c.Created, c.Author, c.Platform, containerConfig{c.Config, docker}, c.RootFS, c.History})
}

// unmarshalConfig reads an image's configuration.
func unmarshalConfig(data []byte) (ispec.Image, DockerConfig, error) {
	var d configDocument
	err := json.Unmarshal(data, &d)
	return ispec.Image{Created: d.Created, Author: d.Author, Platform: d.Platform, Config: d.Config.ImageConfig, RootFS: d.RootFS, History: d.History},
		d.Config.DockerConfig, err
}
