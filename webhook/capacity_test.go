package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

type forecast func(ctx context.Context, before, after *unstructured.Unstructured) ([]string, error)

func (f forecast) Forecast(ctx context.Context, before, after *unstructured.Unstructured) ([]string, error) {
	return f(ctx, before, after)
}

// changeOf is a request to change a MachineDeployment, or to create one.
func changeOf(t *testing.T, before string) []byte {
	t.Helper()
	review := admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: "uid", Namespace: "ns", Object: runtime.RawExtension{Raw: []byte(`{"kind":"MachineDeployment","apiVersion":"x/v1","metadata":{"name":"after"}}`)},
	}}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	if before != "" {
		review.Request.OldObject.Raw = []byte(before)
	}
	text, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const before = `{"kind":"MachineDeployment","apiVersion":"x/v1","metadata":{"name":"before"}}`

func (h *CapacityHandler) ask(ctx context.Context, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, CapacityPath, bytes.NewReader(body)))
	return w
}

func TestChangeIsAllowedWithWhatIsForecast(t *testing.T) {
	for name, test := range map[string]struct {
		namespace string
		forecast  forecast
		want      []string
	}{
		"and there is a warning": {"", func(_ context.Context, before, after *unstructured.Unstructured) ([]string, error) {
			return []string{before.GetName() + " " + after.GetNamespace() + "/" + after.GetName()}, nil
		}, []string{"before ns/after"}},
		"and it fails": {"", func(context.Context, *unstructured.Unstructured, *unstructured.Unstructured) ([]string, error) {
			return nil, errors.New("x")
		}, nil},
		"and it has a mistake": {"", func(context.Context, *unstructured.Unstructured, *unstructured.Unstructured) ([]string, error) {
			panic("x")
		}, nil},
		"which is switched off": {"", nil, nil},
		"in another namespace": {"other", func(context.Context, *unstructured.Unstructured, *unstructured.Unstructured) ([]string, error) {
			return []string{"x"}, nil
		}, nil},
		"in the namespace served": {"ns", func(context.Context, *unstructured.Unstructured, *unstructured.Unstructured) ([]string, error) {
			return []string{"x"}, nil
		}, []string{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			var forecaster Forecaster
			if test.forecast != nil {
				forecaster = test.forecast
			}
			w := NewForCapacity(forecaster, test.namespace).ask(t.Context(), changeOf(t, before))
			var review admissionv1.AdmissionReview
			if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil || review.Response == nil {
				t.Fatalf("got %q, error %v", w.Body, err)
			}
			if r := review.Response; !r.Allowed || r.UID != "uid" || review.Kind != "AdmissionReview" || !slices.Equal(r.Warnings, test.want) {
				t.Errorf("got a %s with %+v, want it allowed with the warnings %q", review.Kind, r, test.want)
			}
		})
	}
}

func TestNothingIsBeforeWhatIsCreated(t *testing.T) {
	h := NewForCapacity(forecast(func(_ context.Context, before, _ *unstructured.Unstructured) ([]string, error) {
		if before == nil {
			return []string{"new"}, nil
		}
		return nil, nil
	}), "")
	if w := h.ask(t.Context(), changeOf(t, "")); !strings.Contains(w.Body.String(), `"new"`) {
		t.Errorf("got %q", w.Body)
	}
}

// What is no answer lets the change through.
func TestChangeThatCannotBeReadIsNotDenied(t *testing.T) {
	h := NewForCapacity(nil, "")
	for _, body := range []string{"", "{", `{"kind":"AdmissionReview"}`, `{"request":{"uid":"` + strings.Repeat("x", maxChange) + `"}}`} {
		if w := h.ask(t.Context(), []byte(body)); w.Code != http.StatusBadRequest || strings.Contains(w.Body.String(), "allowed") {
			t.Errorf("%.40s is answered with %d and %q", body, w.Code, w.Body)
		}
	}
}

func TestChangesWaitForTheirTurnOnlyForAWhile(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := NewForCapacity(forecast(func(context.Context, *unstructured.Unstructured, *unstructured.Unstructured) ([]string, error) {
		close(entered)
		<-leave
		return nil, nil
	}), "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ask(t.Context(), changeOf(t, before))
	}()
	<-entered
	start := time.Now()
	w := h.ask(t.Context(), changeOf(t, before))
	if took := time.Since(start); w.Code != http.StatusServiceUnavailable || took < forecastTime/2 || took > 2*forecastTime {
		t.Errorf("got %d after %s, want to be sent away after %s", w.Code, took, forecastTime)
	}
	close(leave)
	<-done
}
