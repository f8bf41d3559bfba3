package harness

import (
	"os/exec"
	"syscall"
)

// tie makes a process end with us, however we end, and keeps an interrupt from
// the terminal ours: we stop our processes in order.
func tie(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
