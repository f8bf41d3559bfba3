package ipam

// Shortage is what one pool did not have for a machine that was refused.
type Shortage struct {
	Pool PoolReference
	// Needed is the number of addresses that the machine asked of the pool.
	Needed uint64
}

// WithShortages says of a Refusal what the pools were short of, each of which would
// do. Other errors stay as they are.
func WithShortages(err error, shortages ...Shortage) error {
	if refusal, ok := AsRefusal(err); ok {
		refusal.Shortages = shortages
	}
	return err
}
