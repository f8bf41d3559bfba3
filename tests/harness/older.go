package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// MakeOlder has an object that a CRD defines been made, deleted and written so much earlier.
// The API lets nobody write these times, so this changes what etcd keeps; the API server sees
// it as any other change. Nobody else may write the object meanwhile.
func (c *ControlPlane) MakeOlder(ctx context.Context, object client.Object, by time.Duration) error {
	gvk, err := apiutil.GVKForObject(object, Scheme)
	if err != nil {
		return err
	}
	mapping, err := c.Client.RESTMapper().RESTMapping(gvk.GroupKind())
	if err != nil {
		return err
	}
	key := []byte(fmt.Sprintf("/registry/%s/%s/%s/%s", mapping.Resource.Group, mapping.Resource.Resource, object.GetNamespace(), object.GetName()))
	var found struct {
		KVs []struct{ Value []byte } `json:"kvs"`
	}
	if err := c.askEtcd(ctx, "range", map[string][]byte{"key": key}, &found); err != nil {
		return err
	}
	if len(found.KVs) != 1 {
		return fmt.Errorf("etcd has nothing at %s", key)
	}
	older, err := madeOlder(found.KVs[0].Value, by)
	if err != nil {
		return fmt.Errorf("changing what etcd has at %s: %w", key, err)
	}
	return c.askEtcd(ctx, "put", map[string][]byte{"key": key, "value": older}, nil)
}

// madeOlder is a stored object with the times of its metadata so much earlier.
func madeOlder(stored []byte, by time.Duration) ([]byte, error) {
	var content map[string]any
	decoder := json.NewDecoder(bytes.NewReader(stored))
	decoder.UseNumber()
	if err := decoder.Decode(&content); err != nil {
		return nil, err
	}
	metadata, ok := content["metadata"].(map[string]any)
	if !ok {
		return nil, errors.New("it has no metadata")
	}
	shift := func(in map[string]any, name string) {
		if text, ok := in[name].(string); ok {
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				in[name] = at.Add(-by).UTC().Format(time.RFC3339)
			}
		}
	}
	shift(metadata, "creationTimestamp")
	shift(metadata, "deletionTimestamp")
	managed, _ := metadata["managedFields"].([]any)
	for _, entry := range managed {
		if entry, ok := entry.(map[string]any); ok {
			shift(entry, "time")
		}
	}
	return json.Marshal(content)
}

// askEtcd calls etcd by its gateway for JSON, in which keys and values are in base64.
func (c *ControlPlane) askEtcd(ctx context.Context, call string, request map[string][]byte, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, c.etcdURL+"/v3/kv/"+call, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(post)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd answers %s with %s", call, response.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(answer)
}
