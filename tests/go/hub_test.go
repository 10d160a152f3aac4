package main

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// Maximum time of every wait.
	patience = 20 * time.Second
	secret   = "the secret of the tests in Go, long enough"
	apiKey   = "the API key of the tests in Go, long enough"
	config   = `
[channels]
history_size = 10
allow_history = "user"
presence = true
allow_presence = "user"
join_leave = true
allowed_delta_types = ["fossil"]

[[namespaces]]
name = "given"
history_size = 10
force_recovery = true

[[namespaces]]
name = "open"
allow_subscribe = "user"
history_size = 10
force_recovery = true

[[namespaces]]
name = "states"
allow_subscribe = "user"
allow_publish = "user"
allowed_delta_types = ["fossil"]
delta_publish = true

[[namespaces]]
name = "doc"
data_format = "binary"
allow_subscribe = "user"
allow_publish = "user"
history_size = 100
allow_history = "user"
presence = true
allow_presence = "user"

[[namespaces]]
name = "bare"
allow_subscribe = "user"
allow_publish = "user"
`
)

// shared is the hub of most tests.
var shared *hub

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "wardcast-go-")
	if err != nil {
		panic(err)
	}
	shared, err = startHub(folder, "127.0.0.1:0")
	status := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		status = m.Run()
		shared.stop()
	}
	os.RemoveAll(folder)
	os.Exit(status)
}

// hub is a running wardcast process.
type hub struct {
	address string
	pid     int
	guard   *exec.Cmd
	stdin   io.Closer
}

// startHub starts a development hub and returns when it has printed its banner.
func startHub(folder, bind string) (*hub, error) {
	file := filepath.Join(folder, "wardcast.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	guard := exec.Command("../support/guarded", os.Getenv("WARDCAST"), "serve", "--config", file, "--set", "server.bind="+bind,
		"--set", "auth.hmac_secret="+secret, "--set", "api.key="+apiKey)
	guard.Env = []string{"PATH=" + os.Getenv("PATH")}
	stdin, err := guard.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := guard.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := guard.Start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(patience, func() { stdin.Close() })
	defer late.Stop()
	reader := bufio.NewReader(stdout)
	banner := ""
	for !strings.Contains(banner, "Ctrl-C stops.") {
		line, err := reader.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("the hub does not listen: %s", banner)
		}
		banner += line
	}
	pid, _ := strconv.Atoi(strings.SplitN(banner, "\n", 2)[0])
	address := regexp.MustCompile(`ws://([^/\s]+)/`).FindStringSubmatch(banner)[1]
	go io.Copy(io.Discard, reader)
	return &hub{address: address, pid: pid, guard: guard, stdin: stdin}, nil
}

// stop sends SIGTERM and returns when the process has ended.
func (h *hub) stop() {
	syscall.Kill(h.pid, syscall.SIGTERM)
	late := time.AfterFunc(patience, func() { h.stdin.Close() })
	defer late.Stop()
	h.guard.Wait()
}

// claims are the claims of a token.
type claims map[string]any

// sign returns a token signed with HS256 that expires after ttl, unless the claims say otherwise.
func sign(ttl time.Duration, c claims) string {
	all := claims{"exp": time.Now().Add(ttl).Unix()}
	for name, value := range c {
		all[name] = value
	}
	part := func(value any) string {
		raw, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := part(claims{"alg": "HS256"}) + "." + part(all)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func userToken(user string) string {
	return sign(time.Hour, claims{"sub": user})
}

func expiredToken(c claims) string {
	all := claims{"exp": 1_600_000_000}
	for name, value := range c {
		all[name] = value
	}
	return sign(0, all)
}
