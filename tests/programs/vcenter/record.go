package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Kinds of events.
const (
	created    = "created"
	configured = "configured" // it was given metadata, other than before
	poweredOn  = "poweredOn"
	poweredOff = "poweredOff"
	destroyed  = "destroyed"
)

// event is something that happened to a virtual machine.
type event struct {
	// Sequence orders all events.
	Sequence int       `json:"sequence"`
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	// ID is the machine's managed object reference: names can come again.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Addresses are those in its metadata, each with its prefix length.
	Addresses []string `json:"addresses,omitempty"`
}

// vm is what there is to know of a virtual machine that exists.
type vm struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	UUID      string `json:"uuid"`
	PoweredOn bool   `json:"poweredOn"`
	// Metadata is guestinfo.metadata, decoded.
	Metadata  string   `json:"metadata"`
	Addresses []string `json:"addresses"`
	// Networks are the names of those that its cards are connected to, in their order.
	Networks []string `json:"networks"`
	// Reported are the addresses that the guest says it has.
	Reported []string `json:"reported"`
}

// recorder is told of every change by the simulator itself, while the simulator
// makes it: a virtual machine that is destroyed is so before whoever destroyed
// it gets the answer.
type recorder struct {
	// networks are the names of networks, by how cards refer to them.
	networks map[string]string

	mu     sync.Mutex
	vms    map[types.ManagedObjectReference]*vm
	gone   map[types.ManagedObjectReference]bool
	events []event
	// changed has the machines whose guest has to look, and is never waited for.
	changed map[types.ManagedObjectReference]bool
	wake    chan struct{}
}

func newRecorder(networks map[string]string) *recorder {
	return &recorder{
		networks: networks,

		vms:     map[types.ManagedObjectReference]*vm{},
		gone:    map[types.ManagedObjectReference]bool{},
		changed: map[types.ManagedObjectReference]bool{},
		wake:    make(chan struct{}, 1),
	}
}

// Reference makes the recorder something that the simulator can notify.
func (*recorder) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Recorder", Value: "recorder"}
}

// PutObject is called when an object has come to be.
func (r *recorder) PutObject(_ *simulator.Context, object mo.Reference) {
	if machine, ok := object.(*simulator.VirtualMachine); ok {
		r.look(&machine.VirtualMachine)
	}
}

// UpdateObject is called when an object has changed.
func (r *recorder) UpdateObject(_ *simulator.Context, object mo.Reference, _ []types.PropertyChange) {
	if machine, ok := object.(*mo.VirtualMachine); ok {
		r.look(machine)
	}
}

// RemoveObject is called when an object is about to be no more.
func (r *recorder) RemoveObject(_ *simulator.Context, reference types.ManagedObjectReference) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.vms[reference]; known != nil {
		r.append(destroyed, known)
		delete(r.vms, reference)
		r.gone[reference] = true
	}
}

// look compares a machine with what is known of it.
func (r *recorder) look(machine *mo.VirtualMachine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The simulator has no name for a machine at first, and changes a machine
	// once more after it has removed it.
	if machine.Name == "" || r.gone[machine.Self] || (machine.Config != nil && machine.Config.Template) {
		return
	}
	known := r.vms[machine.Self]
	if known == nil {
		known = &vm{ID: machine.Self.Value, Name: machine.Name}
		r.vms[machine.Self] = known
		r.append(created, known)
	}
	known.Name = machine.Name
	if machine.Config != nil {
		known.UUID = machine.Config.Uuid
		known.Networks = networksOf(machine, r.networks)
		r.lookAtMetadata(known, machine.Config.ExtraConfig)
	}
	on := machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	if on != known.PoweredOn {
		known.PoweredOn = on
		r.append(map[bool]string{true: poweredOn, false: poweredOff}[on], known)
	}
	known.Reported = nil
	if machine.Guest != nil {
		for _, nic := range machine.Guest.Net {
			known.Reported = append(known.Reported, nic.IpAddress...)
		}
	}
	r.changed[machine.Self] = true
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *recorder) lookAtMetadata(known *vm, config []types.BaseOptionValue) {
	metadata, err := readMetadata(config)
	if err != nil {
		metadata = "# unreadable: " + err.Error()
	}
	if metadata == known.Metadata {
		return
	}
	known.Metadata = metadata
	known.Addresses = nil
	for _, nic := range parseNetwork(metadata) {
		known.Addresses = append(known.Addresses, nic.Addresses...)
	}
	r.append(configured, known)
}

func (r *recorder) append(kind string, machine *vm) {
	r.events = append(r.events, event{
		Sequence: len(r.events) + 1, Time: time.Now(), Kind: kind,
		ID: machine.ID, Name: machine.Name, Addresses: machine.Addresses,
	})
}

// takeChanged returns the machines that have changed since it was last called.
func (r *recorder) takeChanged() []types.ManagedObjectReference {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []types.ManagedObjectReference
	for reference := range r.changed {
		list = append(list, reference)
	}
	clear(r.changed)
	return list
}

// serveVMs answers with the machines that exist, in the order of their names.
func (r *recorder) serveVMs(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	list := make([]vm, 0, len(r.vms))
	for _, known := range r.vms {
		list = append(list, *known)
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b vm) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	answer(w, list)
}

// serveEvents answers with the events after the one that ?after names.
func (r *recorder) serveEvents(w http.ResponseWriter, request *http.Request) {
	after := 0
	if text := request.URL.Query().Get("after"); text != "" {
		number, err := strconv.Atoi(text)
		if err != nil || number < 0 {
			http.Error(w, "after is not a sequence number", http.StatusBadRequest)
			return
		}
		after = number
	}
	r.mu.Lock()
	events := slices.Clone(r.events[min(after, len(r.events)):])
	r.mu.Unlock()
	answer(w, events)
}

func answer(w http.ResponseWriter, content any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(content)
}
