package kube

import "k8s.io/client-go/util/retry"

// RetryOnConflict calls attempt until it returns anything but a conflict, or
// has done so too often, and returns what it returned last. retry.RetryOnConflict
// alone takes an attempt that was cut short by its deadline for a success.
func RetryOnConflict(attempt func() error) error {
	var last error
	_ = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		last = attempt()
		return last
	})
	return last
}
