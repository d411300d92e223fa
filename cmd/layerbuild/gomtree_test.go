package main

import (
	"os"
	"os/exec"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptGomtree runs go-mtree's own command:
//
//	[!] gomtree arg...
func scriptGomtree(ts *testscript.TestScript, neg bool, args []string) {
	program := ts.MkAbs(".gomtree")
	if _, err := os.Stat(program); err != nil {
		// With the tests' environment, in which the module's files are.
		out, err := exec.Command("go", "build", "-o", program, "github.com/vbatts/go-mtree/cmd/gomtree").CombinedOutput()
		if err != nil {
			ts.Fatalf("go build gomtree: %v\n%s", err, out)
		}
	}
	err := ts.Exec(program, args...)
	if (err == nil) == neg {
		ts.Fatalf("gomtree %q: %v", args, err)
	}
}
