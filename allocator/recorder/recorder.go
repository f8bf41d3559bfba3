// Package recorder makes Events in bounded memory and at a bounded rate,
// whatever happens how often.
//
// client-go's broadcaster starts goroutines for each Event, which pile up behind
// the limit of its client. And it takes all Events of one reason about one object
// for one series, so that a text that has changed never shows.
package recorder

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/tools/reference"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/limit"
)

// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

const (
	// Limits of one namespace: the burst is what a busy namespace has to say when
	// its pool is exhausted, the rate what its Events may cost etcd for their hour.
	namespaceRate  = 2
	namespaceBurst = 50
	// maxQueued bounds the Events that wait to be stored.
	maxQueued = 500
	// storeInterval is the least time between two writes of one Event: what is repeated
	// meanwhile is only counted.
	storeInterval = time.Minute
	// maxRemembered and rememberedFor bound what is known of Events that were made.
	maxRemembered = 1000
	rememberedFor = 10 * time.Minute
)

// key tells Events apart: those with the same one are a series.
type key struct {
	regarding, related              corev1.ObjectReference
	eventType, reason, action, note string
}

// series is an Event and its repetitions. All of it belongs to the Recorder's
// lock, except the event, which does not change.
type series struct {
	event *eventsv1.Event
	count int32
	seen  time.Time
	// queued is when it was last put into the queue, zero if it must be again.
	queued time.Time
	// stored says that the API server has the event.
	stored bool
}

// Recorder implements events.EventRecorder.
type Recorder struct {
	client   client.Client
	instance string
	now      func() time.Time
	allowed  *limit.PerNamespace
	queue    chan *series

	mu sync.Mutex
	// young and old are the series that were made lately. When the young ones are
	// many, or it is time, they become the old ones, and those are forgotten.
	young, old map[key]*series
	turned     time.Time
	// made tells apart what is made in the same moment.
	made int64
}

var _ events.EventRecorder = &Recorder{}

// name is who says it.
const name = "capv-static-ip"

// New makes a Recorder, to be started. The client should have a rate limit of its
// own: it is the limit of all Events together.
func New(c client.Client) *Recorder {
	host, _ := os.Hostname()
	instance := name + "-" + host
	return &Recorder{
		client:   c,
		instance: instance[:min(len(instance), maxInstance)],
		now:      time.Now,
		allowed:  limit.NewPerNamespace(namespaceRate, namespaceBurst),
		queue:    make(chan *series, maxQueued),
		young:    map[key]*series{},
	}
}

// maxInstance is the API server's own bound.
const maxInstance = 128

// Eventf implements events.EventRecorder. It never waits.
//
//nolint:revive // events.EventRecorder gives it so many arguments
func (r *Recorder) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	k := key{eventType: eventType, reason: reason, action: action, note: Shortened(fmt.Sprintf(note, args...))}
	var err error
	if k.regarding, err = referenceTo(r.client.Scheme(), regarding); err == nil && related != nil {
		k.related, err = referenceTo(r.client.Scheme(), related)
	}
	if err != nil {
		klog.Background().Error(err, "Cannot make an event about an object", "reason", reason, "note", k.note)
		return
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	s := r.find(k, now)
	if s != nil {
		s.count++
		s.seen = now
		if now.Sub(s.queued) < storeInterval {
			return
		}
	}
	if !r.allowed.Allow(k.regarding.Namespace, now) {
		dropped.Inc()
		return
	}
	if s == nil {
		s = &series{event: r.event(k, now), count: 1, seen: now}
	}
	select {
	case r.queue <- s:
		s.queued = now
		r.young[k] = s
	default:
		dropped.Inc()
	}
}

// referenceTo is without the version of the object, which would make another
// series of each.
func referenceTo(scheme *runtime.Scheme, obj runtime.Object) (corev1.ObjectReference, error) {
	ref, err := reference.GetReference(scheme, obj)
	if err != nil {
		return corev1.ObjectReference{}, err
	}
	result := *ref
	result.ResourceVersion = ""
	return result, nil
}

// find is the series of the key, nil if there is none or it was forgotten.
func (r *Recorder) find(k key, now time.Time) *series {
	if len(r.young) >= maxRemembered || now.Sub(r.turned) >= rememberedFor {
		r.old, r.young, r.turned = r.young, map[key]*series{}, now
	}
	if s := r.young[k]; s != nil {
		return s
	}
	return r.old[k]
}

func (r *Recorder) event(k key, now time.Time) *eventsv1.Event {
	namespace := k.regarding.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	r.made++
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: util.GenerateEventName(k.regarding.Name, now.UnixNano()+r.made)},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: name,
		ReportingInstance:   r.instance,
		Type:                k.eventType,
		Reason:              k.reason,
		Action:              k.action,
		Regarding:           k.regarding,
		Note:                k.note,
	}
	if k.related != (corev1.ObjectReference{}) {
		event.Related = &k.related
	}
	return event
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica
// has something to say.
func (r *Recorder) NeedLeaderElection() bool { return false }

// Start implements manager.Runnable: it stores what is in the queue. What is
// left when the context ends is made again with the next denial.
func (r *Recorder) Start(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-r.queue:
			r.storeOrForget(ctx, s)
		}
	}
}
