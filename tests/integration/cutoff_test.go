package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

const (
	// unreadyWithin is how soon a replica must say that it cannot serve.
	unreadyWithin = 10 * time.Second
	// granted is what the API server grants our webhook for one request.
	granted = 10 * time.Second
)

// A replica that does not reach the API server can admit nothing, but goes on
// running: only a leader ends.
func TestReplicaThatIsCutOffFromTheAPIServer(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true}, 1)
	provider, err := env.StartInCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	network, err := env.APIServerForwarder()
	if err != nil {
		t.Fatal(err)
	}
	cut, err := env.StartManager(t.Context(), harness.ManagerOptions{Through: network})
	if err != nil {
		t.Fatal(err)
	}

	t.Run("is not ready while packets are dropped", func(t *testing.T) {
		s := newScene(t, env)
		network.Stall()
		s.becomesUnready(cut)
		network.Resume()
		s.within(time.Minute, "it to be ready again", cut.Ready)
	})
	t.Run("is not ready while connections are refused", func(t *testing.T) {
		s := newScene(t, env)
		backend := env.Config.Host[len("https://"):]
		network.SetBackends()
		if network.Cut(backend) == 0 {
			t.Fatal("it had no connection")
		}
		s.becomesUnready(cut)
		network.SetBackends(backend)
		s.within(time.Minute, "it to be ready again", cut.Ready)
	})
	t.Run("answers in time about what is not in its caches", func(t *testing.T) {
		s := newScene(t, env)
		network.Stall()
		start := time.Now()
		answer := <-s.askFor(cut, harness.Machine(s.ns, "cp-0", harness.FromTemplate("missing")))
		network.Resume()

		s.tookLessThanGranted(start)
		if answer.Allowed || answer.Result == nil || !strings.Contains(answer.Result.Message, "the API server has not answered in time") {
			t.Errorf("the answer is %+v", answer)
		}
	})
	t.Run("answers in time, and takes back when it can", func(t *testing.T) {
		s := newScene(t, env)
		s.inClusterPool()
		provider.Pause()
		defer provider.Resume()
		start, answers := time.Now(), s.askFor(cut, s.inClusterMachine("cp-0"))
		s.eventually("the claim to be made", func(context.Context) error {
			_, err := s.claim("cp-0")
			return err
		})

		network.Stall()
		answer := <-answers

		s.tookLessThanGranted(start)
		if answer.Allowed || answer.Result == nil || !strings.Contains(answer.Result.Message, "has not bound a claim in time") {
			t.Errorf("the answer is %+v", answer)
		}
		if _, err := s.claim("cp-0"); err != nil {
			t.Fatalf("the claim was taken back by a replica that is cut off: %v", err)
		}
		network.Resume()
		s.eventually("the claim to be taken back", func(context.Context) error {
			for _, claim := range s.claims() {
				// Its provider, which is paused, may have to let go of it.
				if claim.GetDeletionTimestamp().IsZero() {
					return fmt.Errorf("claim %s is not being deleted", claim.GetName())
				}
			}
			return nil
		})
		s.eventually("the replica to count it", func(ctx context.Context) error {
			taken, err := cut.Metric(ctx, "capv_static_ip_claims_taken_back_total", nil)
			if err == nil && taken != 1 {
				err = fmt.Errorf("it has taken back %v claims", taken)
			}
			return err
		})
	})
}

// becomesUnready waits until a replica says that it is not ready, while another
// one, which is not cut off, is.
func (s *scene) becomesUnready(replica *harness.Manager) {
	s.Helper()
	start := time.Now()
	s.within(unreadyWithin, "it not to be ready", func(context.Context) error {
		// Not with the context that ends with the wait: that would be an error, too.
		if err := replica.Ready(s.Context()); err == nil {
			return fmt.Errorf("%s is ready", replica.Name)
		}
		return nil
	})
	s.Logf("not ready after %s", time.Since(start).Round(100*time.Millisecond))
	if err := s.env.managers[0].Ready(s.Context()); err != nil {
		s.Errorf("a replica that reaches the API server: %v", err)
	}
}

func (s *scene) tookLessThanGranted(start time.Time) {
	s.Helper()
	if took := time.Since(start); took > granted {
		s.Errorf("the answer took %s, the API server waits for %s", took, granted)
	}
}

// askFor asks a replica to admit a machine, and does not wait for the answer.
func (s *scene) askFor(replica *harness.Manager, machine client.Object) <-chan *admissionv1.AdmissionResponse {
	s.Helper()
	review := &admissionv1.AdmissionReview{Request: s.creation(machine.GetName(), s.manifest(machine))}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	body, err := json.Marshal(review)
	if err != nil {
		s.Fatal(err)
	}
	answers := make(chan *admissionv1.AdmissionResponse, 1)
	go func() {
		answer := &admissionv1.AdmissionReview{}
		if err := s.post(replica, body, answer); err != nil {
			s.Error(err)
		}
		if answer.Response == nil {
			answer.Response = &admissionv1.AdmissionResponse{}
		}
		answers <- answer.Response
	}()
	return answers
}
