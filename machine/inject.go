package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"gomodules.xyz/jsonpatch/v2"

	"capv-static-ip.dev/allocator/ipam"
)

// Document is a VSphereMachine as the API server sent it, numbers unparsed.
type Document map[string]any

func decodeDocument(raw []byte) (Document, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	doc := Document{}
	if err := decoder.Decode(&doc); err != nil {
		return nil, fmt.Errorf("reading the VSphereMachine: %w", err)
	}
	return doc, nil
}

// PatchFor is the smallest RFC 6902 patch that makes the object what edit makes
// of it. What edit does not touch is not in the patch.
func PatchFor(raw []byte, edit func(Document) error) ([]jsonpatch.Operation, error) {
	doc, err := decodeDocument(raw)
	if err != nil {
		return nil, err
	}
	if err := edit(doc); err != nil {
		return nil, err
	}
	edited, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing the VSphereMachine: %w", err)
	}
	patch, err := jsonpatch.CreatePatch(raw, edited)
	if err != nil {
		return nil, fmt.Errorf("computing the patch: %w", err)
	}
	return patch, nil
}

// Inject writes bindings into the devices that are to have them, and what
// makes the release of all bindings of the machine sure into the metadata.
func Inject(doc Document, into []ipam.Binding, all ipam.Bindings) error {
	for _, b := range into {
		device, err := doc.device(b.Device.Index)
		if err != nil {
			return err
		}
		injectBinding(device, b)
	}
	text, err := all.Encode()
	if err != nil {
		return err
	}
	return doc.addMarks(text)
}

// injectBinding gives a device its address, and a gateway where it has none.
// Name servers and search domains are the pool's where the pool has any.
func injectBinding(device map[string]any, b ipam.Binding) {
	device["ipAddrs"] = []any{b.Address.String()}
	if b.Gateway.IsValid() {
		gateway := "gateway6"
		if b.Gateway.Is4() {
			gateway = "gateway4"
		}
		if device[gateway] == nil || device[gateway] == "" {
			device[gateway] = b.Gateway.String()
		}
	}
	if len(b.Nameservers) > 0 {
		device["nameservers"] = anySlice(b.Nameservers)
	}
	if len(b.SearchDomains) > 0 {
		device["searchDomains"] = anySlice(b.SearchDomains)
	}
}

func (doc Document) device(index int) (map[string]any, error) {
	spec, _ := doc["spec"].(map[string]any)
	network, _ := spec["network"].(map[string]any)
	devices, _ := network["devices"].([]any)
	if index < 0 || index >= len(devices) {
		return nil, fmt.Errorf("the machine has no device %d", index)
	}
	device, ok := devices[index].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("device %d is not an object", index)
	}
	return device, nil
}

// addMarks adds the finalizer and the bindings annotation, given as its text. An
// empty text leaves the annotation as it is.
func (doc Document) addMarks(bindings string) error {
	metadata, ok := doc["metadata"].(map[string]any)
	if !ok {
		return errors.New("the machine has no metadata")
	}
	if bindings != "" {
		annotations, _ := metadata["annotations"].(map[string]any)
		if annotations == nil {
			annotations = map[string]any{}
		}
		annotations[ipam.BindingsAnnotation] = bindings
		metadata["annotations"] = annotations
	}

	finalizers, _ := metadata["finalizers"].([]any)
	if !slices.Contains(finalizers, any(ipam.ReleaseFinalizer)) {
		metadata["finalizers"] = append(finalizers, ipam.ReleaseFinalizer)
	}
	return nil
}

func anySlice(texts []string) []any {
	items := make([]any, len(texts))
	for i, text := range texts {
		items[i] = text
	}
	return items
}
