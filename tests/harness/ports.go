package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports are taken from below the range that systems use for the near end of
// outgoing connections: a server that restarts would find its port taken by
// one, and a client that dials a port nobody listens on can meet itself there.
const (
	firstPort = 20000
	lastPort  = 29999
)

// ports hands out loopback ports that nobody listens on, and that no other
// control plane of this user will get while this one runs.
type ports struct {
	dir string

	mu    sync.Mutex
	locks []*os.File
}

func newPorts() (*ports, error) {
	dir := filepath.Join(runsDir(), "ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("reserving ports: %w", err)
	}
	return &ports{dir: dir}, nil
}

// take reserves a port.
func (p *ports) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		lock, err := lockFile(filepath.Join(p.dir, strconv.Itoa(port)))
		if errors.Is(err, errLocked) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("reserving a port: %w", err)
		}
		if !free(port) {
			_ = lock.Close()
			continue
		}
		p.locks = append(p.locks, lock)
		return port, nil
	}
	return 0, fmt.Errorf("reserving a port: none is free between %d and %d", firstPort, lastPort)
}

// release gives all ports back.
func (p *ports) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, lock := range p.locks {
		_ = lock.Close()
	}
	p.locks = nil
}

// free looks at all addresses, since some of our programs listen on all.
func free(port int) bool {
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

var errLocked = errors.New("held by another process")

// lockFile takes the lock of a file for as long as the file is open. The
// kernel lets go of it when we die.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, err
	}
	return file, nil
}
