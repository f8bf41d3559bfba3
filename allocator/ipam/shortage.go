package ipam

// Shortage is what one pool did not have for a machine that was refused.
type Shortage struct {
	Pool PoolReference
	// Needed is the number of addresses that the machine asked of the pool.
	Needed uint64
}

// WithShortage says of a Refusal what the pool was short of. Other errors stay as they are.
func WithShortage(err error, short Shortage) error {
	if refusal, ok := AsRefusal(err); ok {
		refusal.Shortage = short
	}
	return err
}
