//go:build heavy

package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"capv-static-ip.dev/tests/harness"
)

// Each replica caches all claims, whoever made them and whatever they carry. These
// are 500 MB, in etcd and in the API server.
func TestCachesKeepOutWhatOthersAnnotate(t *testing.T) {
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true}, 0)
	// There is nothing of ours in it, and to look for that would be to read all of it.
	s := bareScene(t, env)
	padding := harness.WithAnnotation("example.org/padding", strings.Repeat("x", 250<<10))
	var creates sync.WaitGroup
	for worker := range 10 {
		creates.Go(func() {
			for i := range 200 {
				claim := harness.AddressClaim(s.ns, fmt.Sprintf("c-%d-%d", worker, i), harness.InClusterPoolKind, "nobody", padding)
				if err := env.Client.Create(t.Context(), claim); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	creates.Wait()

	// It is ready when all of them are in its cache.
	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{Confined: true})
	if err != nil {
		t.Fatal(err)
	}
	s.staysWithinItsLimit(manager)
}
