package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout is generous: a test machine may have two cores, and others on them.
	startTimeout = 90 * time.Second
	// stopTimeout is how long a process may take from SIGTERM to its end.
	stopTimeout = 45 * time.Second
	// readyInterval is how often a process that starts is asked if it is ready.
	readyInterval = 100 * time.Millisecond
)

// Process is a program that the harness runs. It can be stopped and started
// again; its output goes to one file all the while.
type Process struct {
	// Name is what the process is called in messages.
	Name string
	// LogPath is the file with everything the process printed.
	LogPath string

	path string
	args []string
	// env is added to our own environment.
	env   []string
	ready func(context.Context) error

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	exit error
}

// Start runs the process and returns once it is ready.
func (p *Process) Start(ctx context.Context) error {
	if p.Running() {
		return fmt.Errorf("starting %s: it is running already", p.Name)
	}
	output, err := os.OpenFile(p.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = output, output
	tie(cmd)
	started, done := make(chan error, 1), make(chan struct{})
	go p.run(cmd, output, started, done)
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	return p.awaitReady(ctx)
}

// run starts the command and waits for its end on one thread: Linux ends a
// tied process with the thread that started it, not with the whole program.
func (p *Process) run(cmd *exec.Cmd, output *os.File, started chan<- error, done chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer output.Close()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	err := cmd.Wait()
	p.mu.Lock()
	p.exit = err
	p.mu.Unlock()
	close(done)
}

func (p *Process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(readyInterval)
	defer ticker.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("starting %s: it ended (%w); its log ends with:\n%s", p.Name, errors.Join(p.exit, err), p.LogTail(30))
		case <-ctx.Done():
			return fmt.Errorf("starting %s: not ready in time: %w; its log ends with:\n%s", p.Name, err, p.LogTail(30))
		case <-ticker.C:
		}
	}
}

// Running tells if the process has been started and has not ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return false
	}
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// PID returns the process's number, 0 if it never ran.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Stop asks the process to end and waits until it has. A process that takes
// too long is killed; that, and an exit status other than 0, is an error.
func (p *Process) Stop() error {
	if !p.Running() {
		return nil
	}
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.Kill()
		return fmt.Errorf("stopping %s: it ran on for %s and was killed", p.Name, stopTimeout)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit != nil {
		return fmt.Errorf("stopping %s: %w", p.Name, p.exit)
	}
	return nil
}

// Kill ends the process without any warning and waits until it is gone.
func (p *Process) Kill() {
	if !p.Running() {
		return
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// Pause freezes the process: its sockets stay open and nobody answers.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Done is closed when the process that is running has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// signal can only fail if the process has just ended, which is then noticed
// elsewhere.
func (p *Process) signal(signal syscall.Signal) {
	if p.Running() {
		_ = p.cmd.Process.Signal(signal)
	}
}

// pollingNoise is what controller-runtime logs each time we ask a process that
// is not ready yet.
const pollingNoise = "healthz check failed"

// LogTail returns the last lines that the process printed.
func (p *Process) LogTail(lines int) string {
	content, err := os.ReadFile(p.LogPath)
	if err != nil {
		return err.Error()
	}
	all := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(content)), "\n"), func(line string) bool {
		return strings.Contains(line, pollingNoise)
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
