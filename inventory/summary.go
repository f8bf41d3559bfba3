package inventory

import (
	"fmt"
	"math/big"
)

// Summary is a pool in a list of pools.
type Summary struct {
	*Pool
	Usage
	// Surge is the most that one roll-out needs.
	Surge int
	// Waiting are the owners of refused machines that wait for the pool.
	Waiting []*Owner
	// Status says what is the matter, OK if nothing.
	Status string
	// Attention says that somebody should look.
	Attention bool
}

// Summaries are all pools, in their order.
func (g *Graph) Summaries() []Summary {
	demands := g.Demands()
	summaries := make([]Summary, 0, len(g.Pools))
	for _, pool := range g.Pools {
		summaries = append(summaries, g.summary(pool, demands))
	}
	return summaries
}

// Summary is one pool.
func (g *Graph) Summary(pool *Pool) Summary { return g.summary(pool, g.Demands()) }

func (g *Graph) summary(pool *Pool, demands []Demand) Summary {
	s := Summary{Pool: pool, Usage: pool.Usage(), Surge: SurgeOf(pool, demands), Waiting: g.WaitingFor(pool.PoolKey)}
	s.Status, s.Attention = s.status()
	return s
}

func (s Summary) status() (text string, attention bool) {
	waits := ""
	if n := len(s.Waiting); n == 1 {
		waits = "1 owner waits"
	} else if n > 1 {
		waits = fmt.Sprintf("%d owners wait", n)
	}
	switch {
	case s.Object == nil:
		return "Missing: there is no such pool", true
	case s.Partly:
		return "OK (who uses it in other namespaces may not be seen)", false
	case !s.Known:
		return "OK (the provider does not say its size)", false
	case s.Free.Sign() <= 0 && waits != "":
		return "Exhausted: " + waits, true
	case s.Free.Sign() <= 0:
		return "Exhausted", true
	case waits != "":
		return waits, true
	case s.Free.Cmp(big.NewInt(int64(s.Surge))) < 0:
		return fmt.Sprintf("Low: a roll-out needs %d", s.Surge), true
	default:
		return "OK", false
	}
}

// maxDigits is how many digits of a number are read at a glance.
const maxDigits = 12

// InWords is a number of addresses for people: large ones are powers of two.
func InWords(n *big.Int) string {
	text := n.String()
	if len(text) <= maxDigits {
		return text
	}
	// The next power of two is as good as the number itself: a few are taken.
	return fmt.Sprintf("2^%d", new(big.Int).Sub(n, big.NewInt(1)).BitLen())
}
