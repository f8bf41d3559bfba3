package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// hooksVersion is the version of Cluster API's hooks, which is also where they are served.
const hooksVersion = "hooks.runtime.cluster.x-k8s.io/v1alpha1"

// extension is a runtime extension of Cluster API that says of every change that it can
// be made in place, and then that it has been.
type extension struct {
	mu sync.Mutex
	// updated are the machines that were to be updated.
	updated []string
}

// hookRequest is what is read of the requests of all hooks: the desired objects.
type hookRequest struct {
	Desired map[string]struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Spec json.RawMessage `json:"spec"`
	} `json:"desired"`
}

// ServeHTTP implements http.Handler. A path ends with the name of the hook and that of
// the handler, which is the same here.
func (e *extension) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := hookRequest{}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := map[string]any{"status": "Success"}
	switch r.URL.Path {
	case "/" + hooksVersion + "/discovery":
		var handlers []any
		for _, hook := range []string{"CanUpdateMachine", "CanUpdateMachineSet", "UpdateMachine"} {
			handlers = append(handlers, map[string]any{
				"name": strings.ToLower(hook), "requestHook": map[string]any{"apiVersion": hooksVersion, "hook": hook}, "failurePolicy": "Fail", "timeoutSeconds": 10,
			})
		}
		answer["handlers"] = handlers
	case "/" + hooksVersion + "/updatemachine/updatemachine":
		e.mu.Lock()
		e.updated = append(e.updated, request.Desired["machine"].Metadata.Name)
		e.mu.Unlock()
	default:
		for name, object := range request.Desired {
			if len(object.Spec) == 0 {
				continue
			}
			patch, err := json.Marshal([]any{map[string]any{"op": "replace", "path": "/spec", "value": object.Spec}})
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			answer[name+"Patch"] = map[string]any{"patchType": "JSONPatch", "patch": patch}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // or the caller is gone
}

// hasUpdated tells whether Cluster API had a machine updated.
func (e *extension) hasUpdated(machine string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.updated, machine)
}

// updateInPlace has Cluster API update the machines of the scene in place where it can,
// until the test ends.
func (s *scene) updateInPlace() *extension {
	s.Helper()
	e := &extension{}
	server := httptest.NewTLSServer(e)
	s.Cleanup(server.Close)
	config := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "runtime.cluster.x-k8s.io/v1beta2",
		"kind":       "ExtensionConfig",
		"metadata":   map[string]any{"name": s.ns},
		"spec": map[string]any{
			"clientConfig": map[string]any{
				"url":      server.URL,
				"caBundle": base64.StdEncoding.EncodeToString(harness.CertificatePEM(server.Certificate())),
			},
			"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": s.ns}},
		},
	}}
	s.create(config)
	s.Cleanup(func() {
		if err := s.stack.Plane.Client.Delete(context.Background(), config); err != nil {
			s.Error(err)
		}
	})
	s.eventually(provisioned, "Cluster API to know the extension", func(ctx context.Context) error {
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKeyFromObject(config), config); err != nil {
			return err
		}
		handlers, _, err := unstructured.NestedSlice(config.Object, "status", "handlers")
		if len(handlers) == 0 {
			return errors.Join(fmt.Errorf("it has found no handlers: %v", config.Object["status"]), err)
		}
		return nil
	})
	return e
}
