package capi

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestControlPlaneDomainsAreReadInBothVersions(t *testing.T) {
	for version, text := range map[string]string{
		"v1beta2": `{"status":{"failureDomains":[{"name":"b","controlPlane":true},{"name":"c","controlPlane":false},{"name":"d"},{"name":"a","controlPlane":true}]}}`,
		"v1beta1": `{"status":{"failureDomains":{"b":{"controlPlane":true},"c":{"controlPlane":false},"d":{},"a":{"controlPlane":true,"attributes":{"x":"y"}}}}}`,
	} {
		t.Run(version, func(t *testing.T) {
			cluster := &Cluster{}
			if err := json.Unmarshal([]byte(text), cluster); err != nil {
				t.Fatal(err)
			}
			if got := cluster.ControlPlaneDomains(); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("got %v, want a and b", got)
			}
		})
	}
}

func TestFailureDomainsOfAnotherShapeAreAnError(t *testing.T) {
	if err := json.Unmarshal([]byte(`{"status":{"failureDomains":"a"}}`), &Cluster{}); err == nil {
		t.Error("a text was read as failure domains")
	}
}

func TestVMIsBegunFromItsTaskOn(t *testing.T) {
	for name, test := range map[string]struct {
		vm   VSphereVM
		want bool
	}{
		"waits":        {VSphereVM{}, false},
		"is cloned":    {VSphereVM{Status: VSphereVMStatus{TaskRef: "task-1"}}, true},
		"is there":     {VSphereVM{Status: VSphereVMStatus{VMRef: "vm-1"}}, true},
		"has its UUID": {VSphereVM{Spec: VSphereVMSpec{BiosUUID: "4234"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.vm.IsBegun(); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
