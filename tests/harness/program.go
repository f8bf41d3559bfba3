package harness

import (
	"context"
	"net/http"
)

// Program is a program to be run beside a control plane.
type Program struct {
	// Name is what it is called in messages, and Binary what it is built as.
	Name, Binary string
	Args         []string
	// ReadyURL answers with 200 as soon as the program is ready.
	ReadyURL string
}

// StartProgram starts a program, which is built first if need be. It ends with this
// control plane.
func (c *ControlPlane) StartProgram(ctx context.Context, p Program) (*Process, error) {
	binary, err := c.builder.Path(ctx, p.Binary)
	if err != nil {
		return nil, err
	}
	process := &Process{Name: p.Name, path: binary, args: p.Args, ready: answers(http.DefaultTransport, p.ReadyURL)}
	return process, c.run(ctx, process)
}

// Port reserves a port on the loopback interface, for as long as this control
// plane runs.
func (c *ControlPlane) Port() (int, error) { return c.ports.take() }

// Address reserves a port, too, and returns it with its host.
func (c *ControlPlane) Address() (string, error) {
	port, err := c.ports.take()
	return loopback(port), err
}

// ServingFiles writes a certificate for servers on this machine, of the control
// plane's own authority, and its key.
func (c *ControlPlane) ServingFiles(name string) (certPath, keyPath string, err error) {
	serving, err := c.authority.server()
	if err != nil {
		return "", "", err
	}
	return serving.write(c.Dir, name)
}
