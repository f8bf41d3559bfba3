package ipam

// Shortage is what one pool did not have for a machine that was refused.
type Shortage struct {
	Pool PoolReference
	// Needed is the number of addresses that the machine asked of the pool.
	Needed uint64
}

// WithShortage says of a Refusal what was lacking. Other errors stay as they are.
func WithShortage(err error, lack Shortage) error {
	if refusal, ok := AsRefusal(err); ok {
		refusal.Shortage = lack
	}
	return err
}
