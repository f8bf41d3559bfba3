package allocator

const (
	// maxClaimTries bounds the claims that one request makes for a device because
	// the addresses of earlier ones had to be set aside.
	maxClaimTries = 4
	// maxClaimNames bounds the names that they may have: all claims that keep an
	// address of the pool aside may have been made for machines of one name.
	maxClaimNames = maxSetAside + maxClaimTries
)
