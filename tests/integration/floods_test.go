package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/tests/harness"
)

// What somebody may do who can create machines in one namespace, as often and as
// much as the API server lets them. The manager must stay within the memory that
// its Deployment gives it, and go on serving others.
func TestFloods(t *testing.T) {
	env := ownEnvironment(t, harness.Options{}, 0)
	provider, err := env.StartInCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{Confined: true, OrphanGracePeriod: gracePeriod})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("of large machines that wait", func(t *testing.T) {
		s := newScene(t, env)
		s.inClusterPool()
		provider.Pause()
		// The API server stores 256 KiB of annotations, so the first kind could be
		// stored; but up to 3 MiB come here before it looks.
		legal, denied := s.flood(100, 250<<10)
		s.Logf("%d machines of 250 KiB: %s", denied, legal)
		tooLarge, denied := s.flood(100, 2800<<10)
		s.Logf("%d machines of 2.8 MiB: %s", denied, tooLarge)
		provider.Resume()

		if !strings.Contains(tooLarge, "larger than the 512 KiB") {
			t.Errorf("a machine of 2.8 MiB is denied with %q", tooLarge)
		}
		s.staysWithinItsLimit(manager)
	})
	t.Run("of bindings", func(t *testing.T) {
		// What is forged there breaks the invariants by itself.
		s, other := bareScene(t, env), newScene(t, env)
		other.create(harness.Pool(other.ns))
		for i := range 12 {
			machine := harness.Machine(s.ns, fmt.Sprintf("m-%d", i), harness.WithDevices(harness.DHCPDevice()))
			text := bindingsOf(machine.Name, 13000)
			s.create(machine)
			s.annotate(machine, allocator.BindingsAnnotation, &text)
		}

		machine := other.pooled("cp-0")
		other.create(machine)
		other.settled("cp-0")
		other.delete(machine)
		other.gone(machine)
		other.noClaims()
		s.staysWithinItsLimit(manager)
	})
}

// bindingsOf is the text of an annotation that names as many claims.
func bindingsOf(machine string, count int) string {
	items := make([]string, count)
	for i := range items {
		items[i] = fmt.Sprintf(`{"claim":"c%d"}`, i)
	}
	return `{"machine":"` + machine + `","bindings":[` + strings.Join(items, ",") + `]}`
}

func (s *scene) staysWithinItsLimit(manager *harness.Manager) {
	s.Helper()
	used, err := manager.PeakMemory()
	if err != nil {
		s.Fatal(err)
	}
	limit := manager.MemoryLimit()
	s.Logf("at most %d MiB of %d MiB were used", used>>20, limit>>20)
	if used > limit {
		s.Errorf("%s has used %d MiB and would have been killed at %d MiB", manager.Name, used>>20, limit>>20)
	}
	if !manager.Running() {
		s.Errorf("%s has ended", manager.Name)
	}
}

// flood creates machines that want an address at the same time, each with an
// annotation of this size, and returns how many were denied and what the last
// one was told. The annotation is sent from one copy: it is not our memory that
// is looked at.
func (s *scene) flood(count, size int) (message string, denied int64) {
	s.Helper()
	const mark = "PADDING"
	padding := strings.Repeat("x", size)
	http2, err := rest.HTTPClientFor(s.env.Config)
	if err != nil {
		s.Fatal(err)
	}
	url := s.env.Config.Host + "/apis/infrastructure.cluster.x-k8s.io/v1beta2/namespaces/" + s.ns + "/vspheremachines"
	var last atomic.Value
	last.Store("")
	var failed atomic.Int64
	ctx, cancel := context.WithTimeout(s.Context(), 2*longestRequest)
	defer cancel()
	var creates sync.WaitGroup
	for i := range count {
		manifest := string(s.manifest(s.inClusterMachine(fmt.Sprintf("m-%d-%d", size>>10, i), harness.WithAnnotation("example.org/padding", mark))))
		before, after, _ := strings.Cut(manifest, mark)
		creates.Go(func() {
			body := io.MultiReader(strings.NewReader(before), strings.NewReader(padding), strings.NewReader(after))
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
			if err != nil {
				s.Error(err)
				return
			}
			request.Header.Set("Content-Type", "application/json")
			response, err := http2.Do(request)
			if err != nil {
				s.Error(err)
				return
			}
			defer response.Body.Close()
			if response.StatusCode == http.StatusCreated {
				return
			}
			status := struct{ Message string }{}
			if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
				s.Error(err)
			}
			failed.Add(1)
			last.Store(status.Message)
		})
	}
	creates.Wait()
	message, _ = last.Load().(string)
	return message, failed.Load()
}
