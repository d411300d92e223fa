package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"

	"github.com/layerbuild/layerbuild/gc"
)

// configFile is the config file.
type configFile struct {
	GC *[]ruleText `yaml:"gc"`

	CacheFrom       []string `yaml:"cache_from"`
	CacheTo         []string `yaml:"cache_to"`
	CacheSignKey    string   `yaml:"cache_sign_key"`
	CacheVerifyKeys []string `yaml:"cache_verify_key"`

	// The names are stacker's.
	WorkDir    string `yaml:"work_dir"`
	StackerDir string `yaml:"stacker_dir"`
	OCIDir     string `yaml:"oci_dir"`
	RootFSDir  string `yaml:"rootfs_dir"`
}

// ruleText is a rule of the gc policy. The names are buildkitd's.
type ruleText struct {
	All           bool     `yaml:"all"`
	Filters       []string `yaml:"filters"`
	KeepDuration  string   `yaml:"keepDuration"`
	MaxUsedSpace  string   `yaml:"maxUsedSpace"`
	MinFreeSpace  string   `yaml:"minFreeSpace"`
	ReservedSpace string   `yaml:"reservedSpace"`
	MaxInodes     int64    `yaml:"maxInodes"`
}

// policy is what is removed after builds: what the config file says, or the default.
func (s *settings) policy() ([]gc.Rule, error) {
	path, file, err := s.configuration()
	if err != nil {
		return nil, err
	}
	policy, err := file.policy()
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return policy, nil
}

// configuration is what the config file says, which is read once. One that is not
// there says nothing, unless it was named.
func (s *settings) configuration() (path string, file *configFile, err error) {
	if path = s.config; path == "" {
		path = s.defaultConfig()
	}
	if s.file != nil {
		return path, s.file, nil
	}
	file = &configFile{}
	text, err := os.ReadFile(path)
	// Another user's home folder, as after `sudo -u`, is not there for this user.
	if s.config == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		s.file = file
		return path, file, nil
	}
	if err != nil {
		return path, file, fmt.Errorf("config: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(file); err != nil && !errors.Is(err, io.EOF) {
		return path, file, fmt.Errorf("config %s: %w", path, err)
	}
	s.file = file
	return path, file, nil
}

// defaultConfig is where the config file is if nothing else is said; "" where
// there is no home folder.
func (s *settings) defaultConfig() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	if s.stacker {
		return filepath.Join(dir, stackerName, "conf.yaml")
	}
	return filepath.Join(dir, "layerbuild", "config.yaml")
}

func (file *configFile) policy() ([]gc.Rule, error) {
	if file.GC == nil {
		return gc.DefaultPolicy(), nil
	}
	rules := []gc.Rule{}
	for n, text := range *file.GC {
		rule, err := text.rule()
		if err != nil {
			return nil, fmt.Errorf("gc rule %d: %w", n+1, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// rule reads the sizes, durations and filters of a rule.
func (t ruleText) rule() (gc.Rule, error) {
	rule := gc.Rule{All: t.All, MaxInodes: t.MaxInodes}
	var err error
	if rule.Filters, err = gc.ParseFilters(t.Filters); err != nil {
		return rule, err
	}
	if t.KeepDuration != "" {
		if rule.KeepDuration, err = gc.ParseDuration(t.KeepDuration); err != nil {
			return rule, err
		}
	}
	for _, size := range []struct {
		text string
		to   *gc.Size
	}{{t.MaxUsedSpace, &rule.MaxUsed}, {t.MinFreeSpace, &rule.MinFree}, {t.ReservedSpace, &rule.Reserved}} {
		if size.text == "" {
			continue
		}
		if *size.to, err = gc.ParseSize(size.text); err != nil {
			return rule, err
		}
	}
	return rule, nil
}
