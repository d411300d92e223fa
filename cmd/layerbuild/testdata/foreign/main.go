// Command foreign stands for the shell of a root filesystem for another processor: it
// writes that to /arch, when it is given a script.
package main

import (
	"os"
	"runtime"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] == "-x" {
		return
	}
	if err := os.WriteFile("/arch", []byte(runtime.GOARCH+"\n"), 0o644); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString("runs on " + runtime.GOARCH + "\n")
}
