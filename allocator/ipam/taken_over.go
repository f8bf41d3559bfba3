package ipam

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/kube"
)

// former is what was on an offered claim before it was taken over, of the labels
// and annotations of others that were changed then. Null says that there was none.
type former struct {
	Labels      map[string]*string `json:"labels,omitempty"`
	Annotations map[string]*string `json:"annotations,omitempty"`
}

// IsOffered tells whether a claim is somebody's own who offers it to a machine, whether
// it was taken over or not.
func IsOffered(claim client.Object) bool {
	_, offered := claim.GetAnnotations()[ForAnnotation]
	return offered
}

// NoteTakenOver notes on a claim that its maker offers to a machine what is changed
// in it besides our own marks, compared to before, so that HandBack can undo that.
func NoteTakenOver(claim, before client.Object) error {
	if !IsOffered(claim) {
		return nil
	}
	note := formerOf(claim)
	note.Labels = added(note.Labels, before.GetLabels(), claim.GetLabels())
	note.Annotations = added(note.Annotations, before.GetAnnotations(), claim.GetAnnotations())
	text, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("writing annotation %s: %w", TakenOverAnnotation, err)
	}
	kube.SetAnnotation(claim, TakenOverAnnotation, string(text))
	return nil
}

// HandBack takes our marks off a claim that its maker had offered, and makes what
// NoteTakenOver has noted as it was. The offer itself is its maker's.
func HandBack(claim client.Object) {
	note := formerOf(claim)
	controllerutil.RemoveFinalizer(claim, InUseFinalizer)
	claim.SetLabels(undone(claim.GetLabels(), note.Labels))
	claim.SetAnnotations(undone(claim.GetAnnotations(), note.Annotations))
}

// formerOf reads the note. One that cannot be read is not ours: it must not keep the
// claim from being handed back.
func formerOf(claim client.Object) former {
	note := former{}
	if err := json.Unmarshal([]byte(claim.GetAnnotations()[TakenOverAnnotation]), &note); err != nil {
		return former{}
	}
	return note
}

// added adds to a note what was there of that which is changed. What has been
// noted already was there first.
func added(note map[string]*string, before, after map[string]string) map[string]*string {
	note = maps.Clone(note)
	for key, value := range after {
		was, existed := before[key]
		_, noted := note[key]
		if isOurs(key) || noted || existed && was == value {
			continue
		}
		if note == nil {
			note = map[string]*string{}
		}
		note[key] = nil
		if existed {
			note[key] = &was
		}
	}
	return note
}

// undone is what is left without our marks and with what was there before.
func undone(now map[string]string, note map[string]*string) map[string]string {
	left := maps.Clone(now)
	maps.DeleteFunc(left, func(key, _ string) bool { return isOurs(key) })
	for key, was := range note {
		switch {
		case isOurs(key):
			// NoteTakenOver never writes these: the note is forged.
		case was == nil:
			delete(left, key)
		default:
			left[key] = *was
		}
	}
	return left
}

// isOurs tells whether a label or an annotation of a claim is one that only we write.
func isOurs(key string) bool {
	return strings.HasPrefix(key, "capv-static-ip.dev/") && !slices.Contains(usersMarks, key)
}

// usersMarks are those that users write on claims.
var usersMarks = []string{ForAnnotation, "capv-static-ip.dev/allow-deletion"}
