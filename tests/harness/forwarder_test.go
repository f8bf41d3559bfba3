package harness_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"capv-static-ip.dev/tests/harness"
)

// answering starts a server that answers each line with its name.
func answering(t *testing.T, name string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					_, _ = io.WriteString(conn, name+"\n")
				}
			}()
		}
	}()
	return listener
}

func forwarder(t *testing.T, backends ...net.Listener) *harness.Forwarder {
	t.Helper()
	f, err := plane.NewForwarder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	for _, backend := range backends {
		f.AddBackend(backend.Addr().String())
	}
	return f
}

func dial(t *testing.T, f *harness.Forwarder) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(harness.Soon)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func ask(conn net.Conn) (string, error) {
	if _, err := io.WriteString(conn, "who?\n"); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return answer, err
}

func mustAsk(t *testing.T, conn net.Conn) string {
	t.Helper()
	answer, err := ask(conn)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestForwarderTakesTurns(t *testing.T) {
	t.Parallel()
	a, b := answering(t, "a"), answering(t, "b")
	f := forwarder(t, a, b)
	if first, second := mustAsk(t, dial(t, f)), mustAsk(t, dial(t, f)); first == second {
		t.Errorf("both connections went to %q", first)
	}
	if n := f.Connections(a.Addr().String()) + f.Connections(b.Addr().String()); n != 2 {
		t.Errorf("counted %d connections, want 2", n)
	}
}

func TestForwarderPassesOverADeadBackend(t *testing.T) {
	t.Parallel()
	a, b := answering(t, "a"), answering(t, "b")
	f := forwarder(t, a, b)
	_ = a.Close()
	for range 4 {
		if got := mustAsk(t, dial(t, f)); got != "b\n" {
			t.Fatalf("got an answer from %q, want b", got)
		}
	}
}

func TestForwarderCutsBothSides(t *testing.T) {
	t.Parallel()
	a, b := answering(t, "a"), answering(t, "b")
	f := forwarder(t, a)
	conn := dial(t, f)
	mustAsk(t, conn)
	f.SetBackends(b.Addr().String())
	if got := mustAsk(t, conn); got != "a\n" {
		t.Errorf("the connection moved to %q with the change of back ends", got)
	}
	if cut := f.Cut(a.Addr().String()); cut != 1 {
		t.Errorf("cut %d connections, want 1", cut)
	}
	if _, err := ask(conn); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("asking over a connection that was cut: got %v, want it broken", err)
	}
	if live := f.Live(a.Addr().String()); live != 0 {
		t.Errorf("%d connections are left after the cut", live)
	}
	if got := mustAsk(t, dial(t, f)); got != "b\n" {
		t.Errorf("after the cut got an answer from %q, want b", got)
	}
}

func TestStalledForwarderHoldsBackWhatIsSaid(t *testing.T) {
	f := forwarder(t, answering(t, "one"))
	conn := dial(t, f)
	if _, err := ask(conn); err != nil {
		t.Fatal(err)
	}

	f.Stall()
	if err := conn.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if answer, err := ask(conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stalled forwarder passed on the answer %q, %v", answer, err)
	}
	f.Resume()
	if err := conn.SetDeadline(time.Now().Add(harness.Soon)); err != nil {
		t.Fatal(err)
	}
	if answer, err := bufio.NewReader(conn).ReadString('\n'); err != nil || answer != "one\n" {
		t.Errorf("after the stall the answer is %q, %v", answer, err)
	}
}
