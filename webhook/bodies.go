package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// maxObject is the size of a machine that is read. What configures one takes a
	// few KiB; what makes it large is annotations, of which the API server stores
	// 256 KiB. But it checks that after admission, and sends up to 3 MiB.
	maxObject = 512 << 10
	// maxBody is the size of a request that is read: an update brings two machines,
	// and a request says who asks.
	maxBody = 2*maxObject + 128<<10
	// smallBody is up to where a request is served as it comes: more than an update
	// of a common machine takes.
	smallBody = 32 << 10
	// largeAtOnce is how many larger ones are read at a time. Reading one takes
	// milliseconds, and some ten times its size in memory; what is kept of it is small.
	largeAtOnce = 8
	// readTime is how long the body of a larger one may take to come in, for that
	// long the others wait.
	readTime = 2 * time.Second
	// head is where the UID of a request stands that is too large to be read.
	head = 64 << 10
)

// errTooLarge is the sentence for a machine that is not read.
var errTooLarge = fmt.Errorf("the VSphereMachine is larger than the %d KiB that are read of one: make it smaller; "+
	"as a rule an annotation makes it large", maxObject>>10)

// errTooMuch is the sentence for one of which too much is left that is read.
var errTooMuch = fmt.Errorf("the devices, labels and annotations of the VSphereMachine that capv-static-ip reads are larger than %d KiB: "+
	"remove what makes them large; its own need a few KiB", maxKept>>10)

var errBusy = errors.New("capv-static-ip is reading too many large VSphereMachines at once: try again, or make the machine smaller")

// bounded keeps what requests hold in memory small, whatever they bring: a
// request waits for its claims for seconds, and there may be hundreds of them. It
// also ends each when its answer is due.
func bounded(next http.Handler) http.Handler {
	large := semaphore.NewWeighted(largeAtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := withTimeout(r.Context(), r)
		ctx, cancel := context.WithDeadline(ctx, answerTimeOf(ctx))
		defer cancel()
		r = r.WithContext(ctx)
		if r.ContentLength >= 0 && r.ContentLength <= smallBody {
			next.ServeHTTP(w, r)
			return
		}
		if r.ContentLength > maxBody {
			refuse(w, r.Body, errTooLarge)
			return
		}
		if err := large.Acquire(ctx, 1); err != nil {
			refuse(w, r.Body, errBusy)
			return
		}
		small, err := shrink(w, r)
		large.Release(1)
		if err != nil {
			refuse(w, io.MultiReader(bytes.NewReader(small), r.Body), err)
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(small)), int64(len(small))
		next.ServeHTTP(w, r)
	})
}

// shrink reads the body of a request, and returns what is needed of it. With an
// error it returns the part that was read and is enough to answer.
func shrink(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// A sender that dawdles must not keep the others waiting. Where this cannot be
	// set, the deadline of the request has to do.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime))
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err == nil && len(body) > maxBody {
		err = errTooLarge
	}
	if err != nil {
		return bytes.Clone(body[:min(len(body), head)]), err
	}
	small, err := reduce(body)
	if err != nil {
		return bytes.Clone(body[:min(len(body), head)]), err
	}
	return small, nil
}

// refuse answers a request of which nothing but the UID is read. The rest is
// read and dropped: a client whose connection is closed while it sends does not read
// the answer.
func refuse(w http.ResponseWriter, body io.Reader, reason error) {
	start := time.Now()
	uid, found := uidOf(body)
	_, _ = io.CopyN(io.Discard, body, 2*maxRequest)
	observe("", verdict{err: badRequest{reason}}, time.Since(start))
	code := http.StatusBadRequest
	switch {
	case errors.Is(reason, errTooLarge), errors.Is(reason, errTooMuch):
		code = http.StatusRequestEntityTooLarge
	case errors.Is(reason, errBusy):
		code = http.StatusTooManyRequests
	}
	if !found {
		http.Error(w, reason.Error(), code)
		return
	}
	review := admissionv1.AdmissionReview{Response: &admissionv1.AdmissionResponse{
		UID:    uid,
		Result: &metav1.Status{Code: int32(code), Message: reason.Error()},
	}}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	w.Header().Set("Content-Type", "application/json")
	// The sender may be gone, and needs no answer then.
	_ = json.NewEncoder(w).Encode(review)
}

// maxRequest is the largest object that the API server takes.
const maxRequest = 3 << 20

// uidOf reads the UID of a request, which the API server writes at its beginning.
func uidOf(body io.Reader) (types.UID, bool) {
	decoder := json.NewDecoder(io.LimitReader(body, head))
	for _, name := range []string{"request", "uid"} {
		if !enter(decoder, name) {
			return "", false
		}
	}
	var uid types.UID
	err := decoder.Decode(&uid)
	return uid, err == nil && uid != ""
}

// enter goes to the value of a field in the object that comes next.
func enter(decoder *json.Decoder, field string) bool {
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return false
	}
	for decoder.More() {
		if name, err := decoder.Token(); err != nil || name == field {
			return err == nil
		}
		var skipped json.RawMessage
		if decoder.Decode(&skipped) != nil {
			return false
		}
	}
	return false
}
