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

// Inject writes the bindings of a machine into those of its devices that are to have
// theirs, and what makes the release of all of them sure into the metadata. A device is
// given all of its addresses, also where it lacks only some.
func Inject(doc Document, into []ipam.Binding, all ipam.Bindings) error {
	done := map[int]bool{}
	for _, b := range into {
		index := b.Device.Index
		if done[index] {
			continue
		}
		done[index] = true
		device, err := doc.device(index)
		if err != nil {
			return err
		}
		bindings := bindingsOf(index, all.Bindings)
		nameservers, searchDomains := dnsOf(bindings)
		if err := ipam.CheckDNS(fmt.Sprintf("what the pools of device %d say together", index), nameservers, searchDomains); err != nil {
			return err
		}
		addresses, _ := device["ipAddrs"].([]any)
		device["ipAddrs"] = withAddresses(addresses, bindings)
		injectBeside(device, bindings)
	}
	text, err := all.Encode()
	if err != nil {
		return err
	}
	return doc.addMarks(text)
}

// bindingsOf are those of one device, in the order in which it asked for them.
func bindingsOf(device int, all []ipam.Binding) []ipam.Binding {
	var bindings []ipam.Binding
	for _, b := range all {
		if b.Device.Index == device {
			bindings = append(bindings, b)
		}
	}
	return inOrder(bindings)
}

// inOrder sorts bindings of one device.
func inOrder(bindings []ipam.Binding) []ipam.Binding {
	slices.SortStableFunc(bindings, func(a, b ipam.Binding) int { return a.Slot().Nth - b.Slot().Nth })
	return bindings
}

// withAddresses are the addresses of the bindings, and behind them what else a device has.
func withAddresses(has []any, bindings []ipam.Binding) []any {
	var addresses []any
	for _, b := range bindings {
		addresses = append(addresses, b.Address.String())
	}
	for _, entry := range has {
		text, _ := entry.(string)
		isBound := func(b ipam.Binding) bool { return isAddress(text, b.Address.Addr()) }
		if !slices.ContainsFunc(bindings, isBound) {
			addresses = append(addresses, entry)
		}
	}
	return addresses
}

// injectBeside gives a device what stands beside its addresses: of each family the first
// gateway of its bindings, where it has none, and the name servers and search domains
// of all of them, where there are any.
func injectBeside(device map[string]any, bindings []ipam.Binding) {
	for _, b := range bindings {
		gateway := "gateway6"
		if b.Gateway.Is4() {
			gateway = "gateway4"
		}
		if b.Gateway.IsValid() && (device[gateway] == nil || device[gateway] == "") {
			device[gateway] = b.Gateway.String()
		}
	}
	nameservers, searchDomains := dnsOf(bindings)
	if len(nameservers) > 0 {
		device["nameservers"] = anySlice(nameservers)
	}
	if len(searchDomains) > 0 {
		device["searchDomains"] = anySlice(searchDomains)
	}
}

// dnsOf are the name servers and search domains of a device's bindings, each once.
func dnsOf(bindings []ipam.Binding) (nameservers, searchDomains []string) {
	for _, b := range bindings {
		nameservers = appendNew(nameservers, b.Nameservers)
		searchDomains = appendNew(searchDomains, b.SearchDomains)
	}
	return nameservers, searchDomains
}

func appendNew(all, more []string) []string {
	for _, text := range more {
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

func anySlice(texts []string) []any {
	items := make([]any, len(texts))
	for i, text := range texts {
		items[i] = text
	}
	return items
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
