package webhook

import (
	"encoding/json"
	"fmt"

	"capv-static-ip.dev/allocator/ipam"
)

const (
	// maxValue is the size from which what admission does not read is left out.
	maxValue = 1 << 10
	// maxKept is the size of what admission does read of a machine. Bindings take
	// up most of it, at their largest.
	maxKept = 96 << 10
)

// reduce leaves out of an AdmissionReview what admission neither reads nor
// changes. Annotations are emptied and not left out, so that a patch against what
// is left is the same as one against the whole: it adds ours to a map that exists.
func reduce(body []byte) ([]byte, error) {
	var review struct {
		Kind       string                     `json:"kind"`
		APIVersion string                     `json:"apiVersion"`
		Request    map[string]json.RawMessage `json:"request"`
	}
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	for _, field := range []string{"object", "oldObject"} {
		raw, ok := review.Request[field]
		if !ok {
			continue
		}
		if len(raw) > maxObject {
			return nil, errTooLarge
		}
		object, err := reduceObject(raw)
		if err != nil {
			return nil, err
		}
		if len(object) > maxKept {
			return nil, errTooMuch
		}
		review.Request[field] = object
	}
	small, err := json.Marshal(review)
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	return small, nil
}

// fields are those of a JSON object.
type fields map[string]json.RawMessage

// reduceObject leaves out of a machine what is large and not read.
func reduceObject(raw json.RawMessage) (json.RawMessage, error) {
	var object fields
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, fmt.Errorf("reading the VSphereMachine: %w", err)
	}
	if object == nil {
		return raw, nil
	}
	delete(object, "status")
	if err := object.change("metadata", reduceMetadata); err != nil {
		return nil, err
	}
	err := object.change("spec", func(spec fields) error {
		for name, value := range spec {
			if name != "network" && len(value) > maxValue {
				delete(spec, name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(object)
}

func reduceMetadata(metadata fields) error {
	delete(metadata, "managedFields")
	return metadata.change("annotations", func(annotations fields) error {
		for name, value := range annotations {
			if len(value) > maxValue && !ipam.ReadsAnnotation(name) {
				annotations[name] = json.RawMessage(`""`)
			}
		}
		return nil
	})
}

// change changes an object in a field, where there is one.
func (f fields) change(name string, change func(fields) error) error {
	var object fields
	if err := json.Unmarshal(f[name], &object); f[name] != nil && err != nil {
		return fmt.Errorf("reading %s of the VSphereMachine: %w", name, err)
	}
	if object == nil {
		return nil
	}
	if err := change(object); err != nil {
		return err
	}
	changed, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("writing %s of the VSphereMachine: %w", name, err)
	}
	f[name] = changed
	return nil
}
