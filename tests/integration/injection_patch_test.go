package integration

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// injectable are the only places in a machine that may ever change.
var injectable = regexp.MustCompile(`^(/metadata/annotations|/metadata/annotations/capv-static-ip\.dev~1bindings` +
	`|/metadata/finalizers|/metadata/finalizers/(\d+|-)` +
	`|/spec/network/devices/\d+/(ipAddrs|gateway4|nameservers|searchDomains)(/\d+)?)$`)

// The definition prunes fields that it does not know, so a machine of a later
// CAPV is sent to the webhook as the API server of that day would.
const futureMachine = `{
  "apiVersion": "infrastructure.cluster.x-k8s.io/v1beta2",
  "kind": "VSphereMachine",
  "futureTop": {"integer": 12345678901234567890, "decimal": 1.10, "exponent": 1E2, "text": "<&> ä \u2028", "null": null},
  "metadata": {
    "name": "cp-0", "namespace": "NAMESPACE", "futureMeta": [1.0, {"b": 1, "a": 2}],
    "labels": {"cluster.x-k8s.io/cluster-name": "dkp", "cluster.x-k8s.io/ip-pool-name": "dkp-cluster"},
    "annotations": {"example.org/a~b": "<kept>"},
    "finalizers": ["example.org/first"]
  },
  "spec": {
    "template": "ubuntu", "futureSpec": [[], {}, "", 0, false, null],
    "network": {
      "futureNetwork": {"z": 1, "a": [9007199254740993]},
      "devices": [
        {"networkName": "VM Network", "dhcp4": true, "futureDevice": "first"},
        {"networkName": "VM Network", "dhcp4": false, "nameservers": ["192.0.2.53"], "futureDevice": {"big": 18446744073709551615, "": ""}},
        {"networkName": "VM Network", "futureDevice": 1e400}
      ]
    }
  },
  "status": {"futureStatus": true}
}`

func TestUnknownFieldsSurviveByteForByte(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	compact := &bytes.Buffer{}
	if err := json.Compact(compact, []byte(s.text(futureMachine))); err != nil {
		t.Fatal(err)
	}
	before := compact.Bytes()

	response := s.ask(shared.managers[0], s.creation("cp-0", before))
	if !response.Allowed || response.PatchType == nil {
		t.Fatalf("got the response %+v, want a patch", response)
	}

	for _, path := range paths(t, response.Patch) {
		if !injectable.MatchString(path) {
			t.Errorf("the patch changes %s", path)
		}
	}
	patch, err := jsonpatch.DecodePatch(response.Patch)
	if err != nil {
		t.Fatal(err)
	}
	options := jsonpatch.NewApplyOptions()
	options.EscapeHTML = false
	after, err := patch.ApplyWithOptions(before, options)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`"futureTop":{"integer":12345678901234567890,"decimal":1.10,"exponent":1E2,"text":"<&> ä \u2028","null":null}`,
		`"futureMeta":[1.0,{"b":1,"a":2}]`,
		`"example.org/a~b":"<kept>"`,
		`"futureSpec":[[],{},"",0,false,null]`,
		`"futureNetwork":{"z":1,"a":[9007199254740993]}`,
		`{"networkName":"VM Network","dhcp4":true,"futureDevice":"first"}`,
		`"futureDevice":{"big":18446744073709551615,"":""}`,
		`"futureDevice":1e400`,
		`"status":{"futureStatus":true}`,
	} {
		if !bytes.Contains(after, []byte(text)) {
			t.Errorf("%s is not in what the patch makes of the machine:\n%s", text, after)
		}
	}
	s.expectOnlyInjected(before, after)
	// The claims are there: the machine that is created now takes them.
	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool),
		harness.WithDevices(harness.DHCPDevice(), harness.StaticDevice(), harness.StaticDevice())))
}

// expectOnlyInjected takes out of the patched machine what may be injected, and
// checks that the rest is the machine as it was sent.
func (s *scene) expectOnlyInjected(before, after []byte) {
	s.Helper()
	was, is := decode(s, before), decode(s, after)
	metadata := is["metadata"].(map[string]any)
	finalizers := metadata["finalizers"].([]any)
	if !slices.Equal(finalizers, []any{"example.org/first", ipam.ReleaseFinalizer}) {
		s.Errorf("got the finalizers %v", finalizers)
	}
	metadata["finalizers"] = finalizers[:1]
	delete(metadata["annotations"].(map[string]any), ipam.BindingsAnnotation)
	for _, document := range []map[string]any{was, is} {
		for i, device := range document["spec"].(map[string]any)["network"].(map[string]any)["devices"].([]any) {
			if i == 0 {
				continue
			}
			for _, field := range []string{"ipAddrs", "gateway4", "nameservers"} {
				delete(device.(map[string]any), field)
			}
		}
	}
	expectSame(s, "what the patch leaves alone", is, was)
}

func decode(s *scene, raw []byte) map[string]any {
	s.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	document := map[string]any{}
	if err := decoder.Decode(&document); err != nil {
		s.Fatal(err)
	}
	return document
}

// paths are the places that an RFC 6902 patch changes.
func paths(t *testing.T, patch []byte) []string {
	t.Helper()
	var operations []struct{ Op, Path string }
	if err := json.Unmarshal(patch, &operations); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, operation := range operations {
		all = append(all, operation.Path)
	}
	return all
}
