package programs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ClockVariable says, in the environment of a program with a clock of its own, by how many
// seconds that is ahead.
const ClockVariable = "CAPV_STATIC_IP_TEST_CLOCK_AHEAD"

// clockSource is what the package time gets beside what it has.
const clockSource = `package time

import "syscall"

// clockAhead is by how many seconds the clock is ahead.
var clockAhead = readClockAhead()

func readClockAhead() int64 {
	text, _ := syscall.Getenv("` + ClockVariable + `")
	sign, value := int64(1), int64(0)
	for i, c := range []byte(text) {
		switch {
		case i == 0 && c == '-':
			sign = -1
		case c >= '0' && c <= '9':
			value = 10*value + int64(c-'0')
		default:
			return 0
		}
	}
	return sign * value
}
`

// readsClock is where the package time reads the clock of the machine.
const readsClock = "sec, nsec, mono := runtimeNow()\n"

var errOtherClock = errors.New("the package time of this Go reads the clock in another way")

// ManagerWithClock builds the project's own program with a clock that can be wrong, see
// ClockVariable. A program in Go asks the kernel for the time by itself, so nothing from
// outside can do that. The first time everything is compiled anew, for some minutes.
func (b *Builder) ManagerWithClock(ctx context.Context) (string, error) {
	overlay, err := b.clockOverlay(ctx)
	if err != nil {
		return "", fmt.Errorf("giving the manager a clock of its own: %w", err)
	}
	return b.manager(ctx, "capv-static-ip-clock", "-overlay="+overlay)
}

// clockOverlay writes what is to be compiled in the place of files of the package time.
func (b *Builder) clockOverlay(ctx context.Context) (string, error) {
	root, err := b.goOutput(ctx, b.Root, "env", "GOROOT")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.Cache, "capv-static-ip-clock", "time")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	folder := filepath.Join(root, "src", "time")
	original, err := os.ReadFile(filepath.Join(folder, "time.go"))
	if err != nil {
		return "", err
	}
	changed := strings.Replace(string(original), readsClock, readsClock+"\tsec += clockAhead\n", 1)
	if changed == string(original) {
		return "", errOtherClock
	}
	replaced := map[string]string{}
	for name, content := range map[string]string{"time.go": changed, "clock_ahead.go": clockSource} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return "", err
		}
		replaced[filepath.Join(folder, name)] = path
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o600)
}
