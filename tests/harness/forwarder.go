package harness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// dialTimeout is short, because back ends are on this machine: one that does
// not take a connection at once is paused or gone.
const dialTimeout = 2 * time.Second

// Forwarder passes TCP connections on to one of several back ends, in turn, as
// a Service does with the replicas of a Deployment. A back end that cannot be
// reached is passed over. Like a Service it balances connections, not requests,
// and the API server keeps a connection for long: see Cut.
type Forwarder struct {
	listener *net.TCPListener

	mu       sync.Mutex
	backends []string
	next     int
	live     map[*relay]struct{}
	accepted map[string]int
	closed   bool
	// open is closed while what is said is passed on, see Stall.
	open chan struct{}
}

// relay is one connection and the back end it goes to.
type relay struct {
	backend      string
	near, far    *net.TCPConn
	bothFinished sync.WaitGroup
	// closing is closed when no more is passed on, and gone when the forwarder
	// has forgotten the connection.
	closing, gone chan struct{}
	closeOnce     sync.Once
}

// newForwarder listens on a loopback address.
func newForwarder(address string) (*Forwarder, error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("starting a forwarder: %w", err)
	}
	listener, err := net.ListenTCP("tcp", resolved)
	if err != nil {
		return nil, fmt.Errorf("starting a forwarder: %w", err)
	}
	f := &Forwarder{listener: listener, live: map[*relay]struct{}{}, accepted: map[string]int{}, open: make(chan struct{})}
	close(f.open)
	go f.serve()
	return f, nil
}

// NewForwarder starts a forwarder on a port of this control plane. It ends
// with the control plane.
func (c *ControlPlane) NewForwarder() (*Forwarder, error) {
	port, err := c.ports.take()
	if err != nil {
		return nil, err
	}
	f, err := newForwarder(loopback(port))
	if err != nil {
		return nil, err
	}
	c.closeLater(f)
	return f, nil
}

// Address is where the forwarder listens.
func (f *Forwarder) Address() string { return f.listener.Addr().String() }

// SetBackends says where new connections go. Those that exist stay.
func (f *Forwarder) SetBackends(addresses ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backends = slices.Clone(addresses)
}

// AddBackend lets new connections go to one more address as well.
func (f *Forwarder) AddBackend(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.backends, address) {
		f.backends = append(slices.Clone(f.backends), address)
	}
}

// RemoveBackend keeps new connections from an address.
func (f *Forwarder) RemoveBackend(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backends = slices.DeleteFunc(slices.Clone(f.backends), func(b string) bool { return b == address })
}

// Cut breaks the live connections to a back end, at both ends and whatever is
// under way on them, and returns how many there were. It returns when the back
// end can no longer answer on any of them.
func (f *Forwarder) Cut(backend string) int {
	f.mu.Lock()
	var cut []*relay
	for r := range f.live {
		if r.backend == backend {
			cut = append(cut, r)
		}
	}
	f.mu.Unlock()
	for _, r := range cut {
		r.cut()
		<-r.gone
	}
	return len(cut)
}

// Stall passes nothing on any more, as a network does that drops packets: all
// connections stay, new ones are taken, and nobody hears a word until Resume.
func (f *Forwarder) Stall() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = make(chan struct{})
}

// Resume passes on what was held back by Stall, and what comes after it.
func (f *Forwarder) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.open)
}

// await waits while the forwarder is stalled and the connection is to live.
func (f *Forwarder) await(r *relay) {
	f.mu.Lock()
	open := f.open
	f.mu.Unlock()
	select {
	case <-open:
	case <-r.closing:
	}
}

// Connections counts the connections that a back end has been given so far.
func (f *Forwarder) Connections(backend string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.accepted[backend]
}

// Live counts the connections that a back end has now.
func (f *Forwarder) Live(backend string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := 0
	for r := range f.live {
		if r.backend == backend {
			count++
		}
	}
	return count
}

// Close stops the forwarder and breaks all its connections.
func (f *Forwarder) Close() error {
	f.mu.Lock()
	f.closed = true
	live := make([]*relay, 0, len(f.live))
	for r := range f.live {
		live = append(live, r)
	}
	f.mu.Unlock()
	err := f.listener.Close()
	for _, r := range live {
		r.cut()
	}
	return err
}

func (f *Forwarder) serve() {
	for {
		near, err := f.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go f.forward(near)
		}
	}
}

func (f *Forwarder) forward(near *net.TCPConn) {
	far, backend := f.dial()
	if far == nil {
		_ = near.Close()
		return
	}
	r := &relay{backend: backend, near: near, far: far, closing: make(chan struct{}), gone: make(chan struct{})}
	r.bothFinished.Add(2)
	f.mu.Lock()
	closed := f.closed
	f.live[r] = struct{}{}
	f.accepted[backend]++
	f.mu.Unlock()
	if closed {
		r.close()
	}
	go r.copy(f, r.far, r.near)
	go r.copy(f, r.near, r.far)
	r.bothFinished.Wait()
	r.close()
	f.mu.Lock()
	delete(f.live, r)
	f.mu.Unlock()
	close(r.gone)
}

// dial connects to the next back end that takes the connection.
func (f *Forwarder) dial() (*net.TCPConn, string) {
	f.mu.Lock()
	backends, first := f.backends, f.next
	f.next++
	f.mu.Unlock()
	for i := range backends {
		backend := backends[(first+i)%len(backends)]
		conn, err := net.DialTimeout("tcp", backend, dialTimeout)
		if err != nil {
			continue
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			return tcp, backend
		}
	}
	return nil, ""
}

// copy passes on what one side says, and then that it has said everything. If
// that is not possible, the connection is of no use any more.
func (r *relay) copy(f *Forwarder, to, from *net.TCPConn) {
	defer r.bothFinished.Done()
	_, err := io.Copy(valve{to, f, r}, from)
	f.await(r)
	if err != nil || to.CloseWrite() != nil {
		r.close()
	}
}

// valve is what is written to while the forwarder is not stalled.
type valve struct {
	to        io.Writer
	forwarder *Forwarder
	relay     *relay
}

// Write implements io.Writer.
func (v valve) Write(p []byte) (int, error) {
	v.forwarder.await(v.relay)
	return v.to.Write(p)
}

// cut breaks the connection with a reset: what is still in a buffer must not
// arrive any more.
func (r *relay) cut() {
	for _, conn := range []*net.TCPConn{r.near, r.far} {
		_ = conn.SetLinger(0)
	}
	r.close()
}

func (r *relay) close() {
	r.closeOnce.Do(func() { close(r.closing) })
	_ = r.near.Close()
	_ = r.far.Close()
}
