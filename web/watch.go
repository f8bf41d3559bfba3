package web

import (
	"context"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// watcher says when what was listed has changed.
type watcher struct {
	client client.WithWatch
	// changed has a word in it when something has.
	changed chan struct{}
	// refused are the kinds that may not be watched. Only watch writes it.
	refused map[string]bool
	running *sync.Map
}

func newWatcher(c client.WithWatch) watcher {
	return watcher{client: c, changed: make(chan struct{}, 1), refused: map[string]bool{}, running: &sync.Map{}}
}

// noted is a list that was read to its end.
type noted struct {
	list      client.ObjectList
	namespace string
}

// noting is a reader that notes which lists it was asked for.
type noting struct {
	client.Reader
	noted []noted
}

// List lists, and notes the last page: it is of the same moment as those before it.
func (n *noting) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	if err := n.Reader.List(ctx, list, options...); err != nil {
		return err
	}
	if list.GetContinue() == "" {
		applied := (&client.ListOptions{}).ApplyOptions(options)
		n.noted = append(n.noted, noted{list: list, namespace: applied.Namespace})
	}
	return nil
}

// watch watches what was listed from where the list ends, unless that is watched already.
// A watch that has ended begins anew after the next read, so that nothing is missed.
func (w *watcher) watch(ctx context.Context, lists []noted) {
	for _, l := range lists {
		gvk, err := apiutil.GVKForObject(l.list, w.client.Scheme())
		if err != nil {
			continue
		}
		key := fmt.Sprintf("%T of %s", l.list, gvk)
		if _, runs := w.running.LoadOrStore(key, true); runs {
			continue
		}
		events, err := w.client.Watch(ctx, l.list, &client.ListOptions{
			Namespace: l.namespace, Raw: &metav1.ListOptions{ResourceVersion: l.list.GetResourceVersion()},
		})
		kind := strings.TrimSuffix(gvk.Kind, "List") + "s"
		if err != nil {
			w.running.Delete(key)
			if apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) {
				w.refused[kind] = true
			}
			continue
		}
		delete(w.refused, kind)
		go func() {
			defer w.running.Delete(key)
			defer events.Stop()
			for range events.ResultChan() {
				w.tell()
			}
			w.tell()
		}()
	}
}

// tell leaves word that something has changed, or may have.
func (w *watcher) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
