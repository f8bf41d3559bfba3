package integration

import (
	"encoding/json"
	"errors"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/cli/v1alpha1"
)

// anyCode is an exit code that does not matter.
const anyCode = -1

// decoded is what the plugin prints with -o json, a list of this kind. It must be nothing but
// what the types say that are published.
func decoded[T any](s *scene, code int, kind string, args ...string) []T {
	s.Helper()
	stdout, stderr, got := s.plugin(append(args, "-o", "json")...)
	if code != anyCode && got != code {
		s.Errorf("%v exits with %d, want %d: %s", args, got, code, stderr)
	}
	var list v1alpha1.List[T]
	strict := json.NewDecoder(strings.NewReader(stdout))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&list); err != nil {
		s.Fatalf("%v prints no list of %s: %v in\n%s%s", args, kind, err, stdout, stderr)
	}
	if _, err := strict.Token(); !errors.Is(err, io.EOF) {
		s.Errorf("%v prints more than a list:\n%s", args, stdout)
	}
	if want := (metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: kind + "List"}); list.TypeMeta != want {
		s.Errorf("%v prints a %s, want a %s", args, list.TypeMeta, want)
	}
	// The name and the kind of each item are in all of them.
	var plain struct {
		Items []struct {
			metav1.TypeMeta
			Metadata v1alpha1.Meta
		}
	}
	if err := json.Unmarshal([]byte(stdout), &plain); err != nil {
		s.Fatal(err)
	}
	if len(plain.Items) == 0 {
		s.Errorf("%v prints no %s", args, kind)
	}
	for _, item := range plain.Items {
		if item.APIVersion != v1alpha1.APIVersion || item.Kind != kind || item.Metadata.Name == "" {
			s.Errorf("%v prints the item %+v, want a %s with a name", args, item, kind)
		}
	}
	return list.Items
}

// printsForPrograms checks that what is printed for programs is of the published types, where
// pool dkp-cluster has two addresses, one of them on another machine too.
func (s *scene) printsForPrograms() {
	s.Helper()
	pool := s.usage("IPPool/dkp-cluster")
	if pool.Total != "2" || pool.Free != "0" || pool.Used != 2 || pool.Problems != 2 {
		s.Errorf("the pool is %+v, want two addresses, both used, and two problems", pool)
	}
	holding := decoded[v1alpha1.Holding](s, 0, "Holding", "pool", "dkp-cluster")[1]
	if holding.Address != "10.16.66.89" || holding.Holder != "VSphereMachine/cp-1" || !strings.HasPrefix(holding.Problem, "SIP-001: ") {
		s.Errorf("the address is %+v, want that of cp-1, with a problem", holding)
	}
	machine := decoded[v1alpha1.Machine](s, 0, "Machine", "machines")[0]
	if machine.Metadata.Name != "cp-0" || len(machine.Addresses) != 1 || machine.Pools[0] != "IPPool/dkp-cluster" {
		s.Errorf("the machine is %+v, want cp-0 with its address", machine)
	}
	if who := decoded[v1alpha1.Explanation](s, 1, "Address", "who", "10.16.66.89")[0]; !who.Wrong || who.Next == "" {
		s.Errorf("the address is told of as %+v, want what is wrong and what to do", who)
	}
	if why := decoded[v1alpha1.Explanation](s, 0, "Explanation", "explain", "vspheremachine/cp-0")[0]; why.Wrong || len(why.Lines) == 0 {
		s.Errorf("the machine is told of as %+v, want that nothing is wrong", why)
	}
	if demand := decoded[v1alpha1.Demand](s, 1, "Demand", "capacity", "--check")[0]; demand.Owner != "KubeadmControlPlane/cp" || demand.Short != 2 {
		s.Errorf("the demand is %+v, want a control plane that is two short", demand)
	}
	finding := decoded[v1alpha1.Finding](s, 1, "Finding", "audit", "--checks", "SIP-001")[0]
	if finding.Severity != "error" || finding.Object != "10.16.66.89" || finding.Remedy == "" {
		s.Errorf("the finding is %+v, want an error with a remedy", finding)
	}
	if step := decoded[v1alpha1.Step](s, anyCode, "Step", "uninstall", "--dry-run", "--drain")[0]; step.Does == "" {
		s.Errorf("the step is %+v, want what it does", step)
	}
}
