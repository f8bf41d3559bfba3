package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// padded is a machine that wants an address, with the given metadata and spec
// beside what it needs.
func padded(metadata, spec string) string {
	return fmt.Sprintf(`{"metadata":{"name":"cp","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"}%s},`+
		`"spec":{"network":{"devices":[{"networkName":"a"}]}%s},"status":{"ready":true}}`, metadata, spec)
}

func quoted(size int) string { return `"` + strings.Repeat("x", size) + `"` }

func TestReducedMachineGetsTheSamePatch(t *testing.T) {
	for name, raw := range map[string]string{
		"bare":               padded("", ""),
		"managed fields":     padded(`,"managedFields":[{"manager":`+quoted(50<<10)+`}]`, ""),
		"another annotation": padded(`,"annotations":{"example.org/a":`+quoted(200<<10)+`}`, ""),
		"no annotations":     padded(`,"annotations":null`, ""),
		"another finalizer":  padded(`,"finalizers":["a"]`, ""),
		"a large spec":       padded("", `,"customVMXKeys":{"a":`+quoted(200<<10)+`},"template":"t"`),
		"precise numbers":    padded("", `,"memoryMiB":12345678901234567890`),
	} {
		t.Run(name, func(t *testing.T) {
			bindings := ipam.Bindings{Machine: "cp", Bindings: []ipam.Binding{{}}}
			edit := func(doc machine.Document) error { return machine.Inject(doc, bindings.Bindings, bindings) }
			want, err := machine.PatchFor([]byte(raw), edit)
			if err != nil {
				t.Fatal(err)
			}
			reduced, err := reduceObject([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			got, err := machine.PatchFor(reduced, edit)
			if err != nil {
				t.Fatal(err)
			}
			// Their order is that of a map.
			for _, patch := range [][]jsonpatch.Operation{got, want} {
				slices.SortFunc(patch, func(a, b jsonpatch.Operation) int { return strings.Compare(a.Path, b.Path) })
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if len(reduced) > 2<<10 {
				t.Errorf("%d bytes are left", len(reduced))
			}
		})
	}
}

func TestReducedMachineKeepsWhatIsRead(t *testing.T) {
	long := strings.Repeat("x", 2*maxValue)
	kept := []string{ipam.BindingsAnnotation, "pools.capv-static-ip.dev/0", "cluster.x-k8s.io/cloned-from-name", "clusterctl.cluster.x-k8s.io/delete-for-move"}
	annotations := map[string]string{"kubectl.kubernetes.io/last-applied-configuration": long, "cluster.x-k8s.io.example.org/a": long}
	for _, name := range kept {
		annotations[name] = long
	}
	text, err := json.Marshal(annotations)
	if err != nil {
		t.Fatal(err)
	}
	reduced, err := reduceObject([]byte(padded(`,"annotations":`+string(text), "")))
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.Decode(reduced)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range m.Annotations {
		if read := ipam.ReadsAnnotation(name); read && value != annotations[name] || !read && value != "" {
			t.Errorf("annotation %s has %d bytes", name, len(value))
		}
	}
	for _, name := range kept {
		if m.Annotations[name] != long {
			t.Errorf("annotation %s is lost", name)
		}
	}
	if len(m.Annotations) != len(annotations) {
		t.Errorf("%d annotations are left of %d", len(m.Annotations), len(annotations))
	}
}

func reviewOf(t *testing.T, object string) []byte {
	t.Helper()
	review := admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: "uid", Operation: admissionv1.Create, Namespace: "ns", Name: "cp", Object: runtime.RawExtension{Raw: []byte(object)},
	}}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestRequestsAreServedUpToASize(t *testing.T) {
	annotation := func(size int) string { return padded(`,"annotations":{"example.org/a":`+quoted(size)+`}`, "") }
	devices := padded("", `,"network":{"devices":[{"networkName":`+quoted(maxKept)+`}]}`)
	server := httptest.NewServer(New(handler(&brokenAllocator{})))
	defer server.Close()
	for name, test := range map[string]struct {
		body    []byte
		allowed bool
		code    int32
	}{
		"small":                      {body: reviewOf(t, wanting), allowed: true},
		"a large annotation":         {body: reviewOf(t, annotation(250<<10)), allowed: true},
		"too large an annotation":    {body: reviewOf(t, annotation(maxObject)), code: http.StatusRequestEntityTooLarge},
		"too large to be read":       {body: reviewOf(t, annotation(3<<20)), code: http.StatusRequestEntityTooLarge},
		"too large where it is read": {body: reviewOf(t, devices), code: http.StatusRequestEntityTooLarge},
		"large and no machine":       {body: reviewOf(t, `[`+quoted(100<<10)+`]`), code: http.StatusBadRequest},
	} {
		for _, length := range []string{"told", "untold"} {
			t.Run(name+", its length "+length, func(t *testing.T) {
				var body io.Reader = bytes.NewReader(test.body)
				if length == "untold" {
					body = io.MultiReader(body)
				}
				response, err := http.Post(server.URL+"?timeout=10s", "application/json", body)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				review := &admissionv1.AdmissionReview{}
				if err := json.NewDecoder(response.Body).Decode(review); err != nil || review.Response == nil {
					t.Fatalf("got %+v, %v", review, err)
				}
				got := review.Response
				if got.UID != "uid" || got.Allowed != test.allowed || !test.allowed && got.Result.Code != test.code {
					t.Errorf("got %+v", got)
				}
				if test.allowed && !strings.Contains(string(got.Patch), ipam.ReleaseFinalizer) {
					t.Errorf("got the patch %s", got.Patch)
				}
			})
		}
	}
}

func TestUIDIsFoundAtTheBeginning(t *testing.T) {
	for body, want := range map[string]string{
		`{"kind":"AdmissionReview","request":{"uid":"a","object":`: "a",
		`{"request":{"kind":{"group":"g"},"uid":"b"}}`:             "b",
		`{"request":{"uid":1}}`:                                    "",
		`{"request":[]}`:                                           "",
		`{"request":`:                                              "",
		`[]`:                                                       "",
		``:                                                         "",
		`{"a":` + quoted(head) + `,"request":{"uid":"c"}}`: "",
	} {
		if got, found := uidOf(strings.NewReader(body)); string(got) != want || found != (want != "") {
			t.Errorf("%.60s: got %q, %v", body, got, found)
		}
	}
}
