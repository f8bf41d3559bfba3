package recorder

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// stage is a Recorder whose clock is that of a synctest bubble, and the API
// server that it stores Events on.
type stage struct {
	*testing.T
	*Recorder
	c client.Client
}

// run plays in a bubble, on an API server that fails with err while it is set.
func run(t *testing.T, play func(s *stage, err *error)) {
	synctest.Test(t, func(t *testing.T) {
		var failure error
		c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if failure != nil {
					return failure
				}
				return c.Create(ctx, obj, opts...)
			},
		}).Build()
		play(&stage{T: t, Recorder: New(c), c: c}, &failure)
	})
}

func (s *stage) start() {
	ctx, cancel := context.WithCancel(s.Context())
	go func() { _ = s.Start(ctx) }()
	s.Cleanup(cancel)
}

func (s *stage) say(namespace, owner, note string) {
	s.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Owner", Namespace: namespace, Name: owner}, nil,
		corev1.EventTypeWarning, "PoolNotFound", "Admit", "%s", note)
}

// stored lists the events that were stored, by owner and note.
func (s *stage) stored() map[string]eventsv1.Event {
	s.Helper()
	synctest.Wait()
	list := &eventsv1.EventList{}
	if err := s.c.List(s.Context(), list); err != nil {
		s.Fatal(err)
	}
	notes := map[string]eventsv1.Event{}
	for _, event := range list.Items {
		said := event.Regarding.Name + ": " + event.Note
		if _, twice := notes[said]; twice {
			s.Errorf("the event %q is there twice", said)
		}
		notes[said] = event
	}
	return notes
}

func TestCorrectedTextShowsBesideTheFirst(t *testing.T) {
	run(t, func(s *stage, _ *error) {
		s.start()
		s.say("ns", "md", `IPPool "first" not found`)
		s.say("ns", "md", `IPPool "second" not found`)
		if got := s.stored(); len(got) != 2 {
			t.Errorf("got %v, want both texts", got)
		}
	})
}

func TestRepeatedEventIsCountedOnceAMinute(t *testing.T) {
	run(t, func(s *stage, _ *error) {
		s.start()
		s.say("ns", "md", "no")
		synctest.Wait()
		for range 9 {
			s.say("ns", "md", "no")
		}
		if event := s.stored()["md: no"]; event.Series != nil {
			t.Errorf("it was written again at once: %+v", event.Series)
		}
		time.Sleep(storeInterval)
		s.say("ns", "md", "no")
		if event := s.stored()["md: no"]; event.Series == nil || event.Series.Count != 11 || time.Since(event.Series.LastObservedTime.Time) > time.Second {
			t.Errorf("got the series %+v, want 11, just now", event.Series)
		}
		event := s.stored()["md: no"]
		if err := s.c.Delete(t.Context(), &event); err != nil {
			t.Fatal(err)
		}
		time.Sleep(storeInterval)
		s.say("ns", "md", "no")
		if event := s.stored()["md: no"]; event.Series == nil || event.Series.Count != 12 {
			t.Errorf("the event that had expired is now %+v, want the 12th of its series", event)
		}
	})
}

func TestEventThatCouldNotBeStoredIsStoredNextTime(t *testing.T) {
	run(t, func(s *stage, err *error) {
		*err = errors.New("the API server is away")
		s.start()
		s.say("ns", "md", "no")
		time.Sleep(storeInterval / 2) // the tries are over
		*err = nil
		s.say("ns", "md", "no")
		if len(s.stored()) != 1 {
			t.Error("it is not there")
		}
	})
}

func TestEventsThatWaitAreBounded(t *testing.T) {
	run(t, func(s *stage, _ *error) {
		for i := range 4 * maxQueued {
			s.say("ns-"+strconv.Itoa(i%100), "md", strconv.Itoa(i))
		}
		if waiting, known := len(s.queue), len(s.young)+len(s.old); waiting != maxQueued || known != maxQueued {
			t.Errorf("%d wait and %d are remembered, want %d", waiting, known, maxQueued)
		}
	})
}

func TestNamespaceThatFloodsKeepsNobodyFromBeingHeard(t *testing.T) {
	run(t, func(s *stage, _ *error) {
		for i := range 10000 {
			s.say("flood", "md-"+strconv.Itoa(i), "no")
		}
		s.say("quiet", "md", "heard")
		if waiting := len(s.queue); waiting != namespaceBurst+1 {
			t.Errorf("%d wait, want the burst of %d and one", waiting, namespaceBurst)
		}
		s.start()
		if _, ok := s.stored()["md: heard"]; !ok {
			t.Error("the other namespace is not heard")
		}
	})
}

func TestWhatIsRememberedIsForgotten(t *testing.T) {
	run(t, func(s *stage, _ *error) {
		say := func(owner string) {
			s.say("ns", owner, "no")
			<-s.queue
		}
		for i := range 5 * maxRemembered {
			say("md-" + strconv.Itoa(i))
			time.Sleep(time.Second)
		}
		if known := len(s.young) + len(s.old); known > 2*maxRemembered {
			t.Errorf("%d are remembered", known)
		}
		time.Sleep(2 * rememberedFor)
		say("last")
		time.Sleep(2 * rememberedFor)
		say("last")
		if known := len(s.young) + len(s.old); known > 2 {
			t.Errorf("%d are remembered, want the last", known)
		}
	})
}

func TestNotesAreCutBetweenCharacters(t *testing.T) {
	for name, test := range map[string]struct {
		note string
		want int
	}{
		"short":                  {"no", 2},
		"just short enough":      {strings.Repeat("x", maxNote), maxNote},
		"one too long":           {strings.Repeat("x", maxNote+1), maxNote},
		"of two bytes each":      {strings.Repeat("ä", maxNote), maxNote - 1},
		"of three bytes each":    {"x" + strings.Repeat("世", maxNote), maxNote},
		"of four bytes each":     {strings.Repeat("🙂", maxNote), maxNote - 1},
		"of no valid characters": {strings.Repeat("\xff", maxNote), 3},
	} {
		t.Run(name, func(t *testing.T) {
			got := Shortened(test.note)
			if len(got) != test.want || !utf8.ValidString(got) || len(test.note) > maxNote != strings.HasSuffix(got, ellipsis) {
				t.Errorf("got %d bytes, want %d: %q", len(got), test.want, got)
			}
		})
	}
}
