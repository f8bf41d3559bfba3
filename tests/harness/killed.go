package harness

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// ErrCameToItsEnd is of a program that did all that it had to before it could be killed.
var ErrCameToItsEnd = errors.New("it came to its end before it could be killed")

// KilledAt runs a program, hears each line that it writes to its standard error, and kills it
// with -9 at a word.
func KilledAt(cmd *exec.Cmd, word string, hear func(line string)) error {
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(said); lines.Scan(); {
		hear(lines.Text())
		if strings.Contains(lines.Text(), word) {
			_ = cmd.Process.Kill()
		}
	}
	switch err := cmd.Wait(); {
	case err == nil:
		return ErrCameToItsEnd
	case cmd.ProcessState.Exited():
		return fmt.Errorf("it ended by itself: %w", err)
	}
	return nil
}
