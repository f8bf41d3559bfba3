package inventory

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Summary is a pool in a list of pools.
type Summary struct {
	*Pool
	Usage
	// Surge is the most that one roll-out needs.
	Surge int
	// Waiting are the owners of refused machines that wait for the pool.
	Waiting []*Owner
	// Problems are how many findings there are in it.
	Problems int
	// Status says what is the matter, OK if nothing.
	Status string
	// Attention says that somebody should look, and Urgent that they should do it now.
	Attention, Urgent bool
	rank              rank
}

// Summaries are all pools: those first that need attention, and alike ones in their order.
func (g *Graph) Summaries(problems Problems) []Summary {
	demands := g.Demands()
	summaries := make([]Summary, 0, len(g.Pools))
	for _, pool := range g.Pools {
		summaries = append(summaries, g.summary(pool, demands, problems))
	}
	slices.SortStableFunc(summaries, byRank)
	return summaries
}

// Summary is one pool.
func (g *Graph) Summary(pool *Pool, problems Problems) Summary {
	return g.summary(pool, g.Demands(), problems)
}

func (g *Graph) summary(pool *Pool, demands []Demand, problems Problems) Summary {
	s := Summary{
		Pool: pool, Usage: pool.Usage(), Surge: SurgeOf(pool, demands), Waiting: g.WaitingFor(pool.PoolKey), Problems: len(problems[pool.PoolKey]),
	}
	s.Status, s.rank = s.status()
	switch {
	case problems.hasError(pool.PoolKey):
		s.rank = isBroken
	case s.Problems > 0:
		s.rank = min(s.rank, isDoubtful)
	}
	s.Attention, s.Urgent = s.rank <= isLow, s.rank <= isExhausted
	return s
}

// InAll is the status with how many problems there are, and with where to see them, which is
// empty where these are shown.
func (s Summary) InAll(where string) string {
	text := fmt.Sprintf("%d problems", s.Problems)
	switch s.Problems {
	case 0:
		return s.Status
	case 1:
		text = "1 problem"
	}
	text += where
	if strings.HasPrefix(s.Status, Fine) {
		return text
	}
	return s.Status + "; " + text
}

// Fine is the status of a pool that nobody has to look at, or begins it.
const Fine = "OK"

// nearlyFull is that a pool of so many addresses has one that is free, or fewer.
const nearlyFull = 10

// isNearlyFull tells whether less than a tenth of the pool is free.
func (s Summary) isNearlyFull() bool {
	return new(big.Int).Mul(s.Free, big.NewInt(nearlyFull)).Cmp(s.Total) < 0
}

func (s Summary) status() (string, rank) {
	waits := ""
	if n := len(s.Waiting); n == 1 {
		waits = "1 owner waits"
	} else if n > 1 {
		waits = fmt.Sprintf("%d owners wait", n)
	}
	switch {
	case s.Object == nil && waits != "":
		return "Missing: there is no such pool, " + waits, isWaitedFor
	case s.Object == nil:
		return "Missing: there is no such pool", isExhausted
	case s.Partly:
		return Fine + " (who uses it in other namespaces may not be seen)", isFine
	case !s.Known:
		return Fine + " (the provider does not say its size)", isFine
	case s.Free.Sign() <= 0 && waits != "":
		return "Exhausted: " + waits, isWaitedFor
	case s.Free.Sign() <= 0:
		return "Exhausted", isExhausted
	case waits != "":
		return waits, isWaitedFor
	case s.Free.Cmp(big.NewInt(int64(s.Surge))) < 0:
		return fmt.Sprintf("Low: a roll-out needs %d", s.Surge), isLow
	case s.isNearlyFull():
		return "Nearly full", isNearlyFull
	default:
		return Fine, isFine
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
