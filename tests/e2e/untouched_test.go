package e2e

import (
	"context"
	"encoding/json"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/stack"
)

// untouched are machines of which a journey changes neither the spec nor the virtual machine.
type untouched struct {
	*scene
	nodes []stack.Node
	// event is the last thing that had happened in the vCenter.
	event int
}

// untouchedFrom has machines that are as they are from now on.
func (s *scene) untouchedFrom(nodes []stack.Node) untouched {
	s.Helper()
	return untouched{scene: s, nodes: nodes, event: s.lastEvent()}
}

// lastEvent is the number of the last thing that happened in the vCenter to the scene.
func (s *scene) lastEvent() int {
	s.Helper()
	events, err := s.events(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return events[len(events)-1].Sequence
}

// in looks for the machines in another management cluster.
func (u untouched) in(s *scene) untouched {
	u.scene = s
	return u
}

// check waits until each machine holds its addresses, and sees that it is as it was, and that
// nothing has happened to its virtual machine.
func (u untouched) check() {
	u.Helper()
	u.eventually(provisioned, "the machines to hold their addresses", func(ctx context.Context) error { return u.allHeld(ctx, u.nodes) })
	for _, node := range u.nodes {
		machine := &capvv1.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: u.ns, Name: node.Machine.Name}}
		u.get(machine)
		if got, want := u.text(machine.Spec), u.text(node.Machine.Spec); got != want {
			u.Errorf("machine %s is\n%s\nwant as it was\n%s", machine.Name, got, want)
		}
	}
	u.checkVMs()
	u.step("%d machines and their virtual machines are what they were", len(u.nodes))
}

func (u untouched) text(spec any) string {
	u.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		u.Fatal(err)
	}
	return string(text)
}

// checkVMs sees that nothing has happened to the virtual machines.
func (u untouched) checkVMs() {
	u.Helper()
	events, err := u.events(u.Context())
	if err != nil {
		u.Fatal(err)
	}
	for _, event := range events {
		is := slices.ContainsFunc(u.nodes, func(node stack.Node) bool { return node.VM.ID == event.ID })
		if is && event.Sequence > u.event {
			u.Errorf("virtual machine %s, which was to stay as it is, was %s", event.Name, event.Kind)
		}
	}
}
