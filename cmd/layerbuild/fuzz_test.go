package main

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever a config file says, it is a policy or an error.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{"", "gc: []", "gc:\n- filters: [type==failed, until=24h]\n  all: true\n  keepDuration: 7d\n- maxUsedSpace: 60%\n  minFreeSpace: 1e999\n",
		"stacker_dir: a\nwork_dir: [", "gc: &a [*a]", "gc: [{filters: ['id~=(']}]", "a: &a [x]\nb: [*a,*a]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &settings{config: filepath.Join(t.TempDir(), "config.yaml")}
		if err := os.WriteFile(s.config, text, 0o600); err != nil {
			t.Fatal(err)
		}
		rules, err := s.policy()
		for _, rule := range rules {
			if err == nil && (rule.KeepDuration < 0 || rule.MaxUsed.Bytes < 0 || rule.MinFree.Percent < 0 || rule.MinFree.Percent > 100) {
				t.Errorf("%+v", rule)
			}
		}
	})
}
