package measure

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Clients is the number of clients that create at once.
const Clients = 32

// Crowd is a measurement with many clients.
type Crowd struct {
	Durations
	// Wall is the time in which all were made.
	Wall time.Duration
}

// Add adds samples that were made in this time.
func (c *Crowd) Add(other Crowd) {
	c.Durations = append(c.Durations, other.Durations...)
	c.Wall += other.Wall
}

// PerSecond is how many were made in a second.
func (c *Crowd) PerSecond() float64 { return float64(len(c.Durations)) / c.Wall.Seconds() }

// AtOnce lets the clients make things of these names: whoever has made one makes the next.
func AtOnce(ctx context.Context, names []string, create func(ctx context.Context, name string) error) (Crowd, error) {
	took := make(Durations, len(names))
	clients, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	var next atomic.Int64
	for range Clients {
		clients.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
				begin := time.Now()
				if err := create(ctx, names[i]); err != nil {
					return err
				}
				took[i] = time.Since(begin)
			}
			return nil
		})
	}
	err := clients.Wait()
	return Crowd{Durations: took, Wall: time.Since(start)}, err
}
