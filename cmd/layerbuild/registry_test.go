package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/bcrypt"
)

// docker-registry VARIABLE [login] starts Debian's docker-registry with what is in
// $WORK/VARIABLE.data, and sets VARIABLE to its host:port. It writes what it is
// asked to $WORK/VARIABLE.log. With login it speaks https only, to the user "user"
// with the password "secret"; SSL_CERT_FILE is set so that its certificate is known.
func scriptDockerRegistry(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1 || len(args) == 2 && args[1] == "login", "docker-registry VARIABLE [login]")
	dir := filepath.Join(ts.Getenv("WORK"), args[0])
	config := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp:\n  addr: 127.0.0.1:0\n", dir+".data")
	if len(args) == 2 {
		ts.Check(writeCertificate(dir+".crt", dir+".key"))
		hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
		ts.Check(err)
		ts.Check(os.WriteFile(dir+".users", []byte("user:"+string(hash)+"\n"), 0o600))
		config += fmt.Sprintf("  tls: {certificate: %q, key: %q}\nauth: {htpasswd: {realm: test, path: %q}}\n", dir+".crt", dir+".key", dir+".users")
		ts.Setenv("SSL_CERT_FILE", dir+".crt")
	}
	ts.Check(os.WriteFile(dir+".yml", []byte(config), 0o644))
	log, err := os.Create(dir + ".log")
	ts.Check(err)
	cmd := exec.Command("docker-registry", "serve", dir+".yml")
	cmd.Stdout = log
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	})
	address := make(chan string, 1)
	go func() {
		find := regexp.MustCompile(`listening on ([0-9.:]+)`)
		lines := bufio.NewScanner(io.TeeReader(stderr, log))
		for lines.Scan() {
			if m := find.FindStringSubmatch(lines.Text()); m != nil {
				address <- m[1]
			}
		}
		close(address)
	}()
	host, ok := <-address
	if !ok {
		ts.Fatalf("docker-registry does not start: %s", ts.ReadFile(dir+".log"))
	}
	ts.Setenv(args[0], host)
}

// writeCertificate makes a certificate for 127.0.0.1 that signs itself.
func writeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "registry"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}
