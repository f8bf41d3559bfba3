package integration

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// Cluster API reads a template in the version of its contract, and makes the machine in it.
func TestManifestsOfTheOldAdapterWorkUnchanged(t *testing.T) {
	t.Parallel()
	want := harness.StaticDevice()
	want.DHCP6, want.IPAddrs, want.Gateway4 = new(false), []string{"10.20.64.20/18"}, "10.20.64.1"
	want.Nameservers, want.SearchDomains = []string{"10.20.64.53"}, []string{"example.org", "example.net"}
	for _, way := range []string{"by-name", "by-labels"} {
		for _, version := range []string{"v1beta1", "v1beta2"} {
			t.Run(way+", "+version, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, shared)
				s.createFrom("old-adapter.yaml")
				template := &unstructured.Unstructured{}
				template.SetGroupVersionKind(capvv1.GroupVersion.WithKind("VSphereMachineTemplate").GroupKind().WithVersion(s.env.served(version)))
				if err := s.env.Client.Get(t.Context(), s.key(way), template); err != nil {
					t.Fatal(err)
				}

				machine := s.cloned(template, "dev-x7k2p", nil)
				s.create(machine)

				s.expectDevices("dev-x7k2p", want)
				ip := s.settled("dev-x7k2p")
				s.delete(machine)
				s.gone(machine)
				s.returned(ip)
			})
		}
	}
}

// createFrom creates what is in a file, as it is but for the namespace.
func (s *scene) createFrom(name string) {
	s.Helper()
	file, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		s.Fatal(err)
	}
	defer file.Close()
	decoder := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.Fatal(err)
		}
		object.SetNamespace(s.ns)
		if err := s.env.Client.Create(s.Context(), object); err != nil {
			s.Fatalf("%s %s is refused: %v", object.GetKind(), object.GetName(), err)
		}
	}
}
