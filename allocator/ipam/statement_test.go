package ipam

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// stating is a pool with one annotation.
func stating(annotation, value string) Pool {
	pool := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "lab", Annotations: map[string]string{annotation: value}}}
	return Pool{Object: pool, Reference: PoolReference{Kind: "IPPool", Name: "lab"}}
}

func TestPoolServesTheNetworksThatItNamesOnly(t *testing.T) {
	for name, test := range map[string]struct {
		networks, network string
		serves            bool
	}{
		"its network":                      {"seg-a", "seg-a", true},
		"one of its networks":              {"seg-a, seg-b", "seg-b", true},
		"another network":                  {"seg-a", "seg-b", false},
		"a network that only begins so":    {"seg-a", "seg-ab", false},
		"the network by its path":          {"seg-a", "/dc/network/seg-a", true},
		"the path by the network":          {"/dc/network/seg-a", "seg-a", true},
		"a network of another data centre": {"/dc/network/seg-a", "/other/network/seg-a", false},
		"a device that names none":         {"seg-a", "", false},
		"a pool that names none":           {"", "seg-a", false},
		"a name with blanks":               {"VM Network", "VM Network", true},
	} {
		t.Run(name, func(t *testing.T) {
			want := Want{Ask: Ask{Device: Device{Index: 1, NetworkName: test.network}, AskedBy: "label x of y"}}
			err := CheckStatement(stating(NetworksAnnotation, test.networks), Machine{}, want)
			refusal, refused := AsRefusal(err)
			switch {
			case test.serves && err != nil:
				t.Errorf("refused: %v", err)
			case !test.serves && (!refused || refusal.Reason != PoolNotForNetwork || !strings.Contains(refusal.Message, "device 1")):
				t.Errorf("got %v, want a refusal %s", err, PoolNotForNetwork)
			}
		})
	}
}

// inDomain is where a device may be whose network plays no part.
func inDomain(name string) Site { return Site{FailureDomain: name} }

func TestPoolServesTheFailureDomainsThatItNamesOnly(t *testing.T) {
	for name, test := range map[string]struct {
		domains string
		sites   []Site
		refused string
	}{
		"its domain":                  {domains: "zone-a", sites: []Site{inDomain("zone-a")}},
		"one of its domains":          {domains: "zone-a, zone-b", sites: []Site{inDomain("zone-b")}},
		"all that the machine may be": {domains: "zone-a,zone-b,zone-c", sites: []Site{inDomain("zone-c"), inDomain("zone-a")}},
		"another domain": {domains: "zone-a", sites: []Site{inDomain("zone-b")},
			refused: `failure domains "zone-a" only, and MachineSet "md" is for "zone-b": name`},
		"none of several domains": {domains: "zone-a", sites: []Site{inDomain(""), inDomain("zone-b"), inDomain("zone-c")},
			refused: `failure domains "zone-a" only, and MachineSet "md" is for "zone-b", "zone-c": name`},
		"a machine without one":           {domains: "zone-a", sites: []Site{inDomain("")}, refused: `failure domains "zone-a" only, and the machine has none: name`},
		"where there are none":            {domains: "zone-a", refused: `failure domains "zone-a" only, and the machine has none: name`},
		"a pool that is for no domain":    {domains: "", sites: []Site{inDomain("zone-a")}, refused: `MachineSet "md" is for "zone-a"`},
		"no domain, by a pool for no one": {domains: "", sites: []Site{inDomain("")}, refused: `the machine has none`},
	} {
		t.Run(name, func(t *testing.T) {
			want := Want{Ask: Ask{Sites: test.sites, DomainsOf: `MachineSet "md" is for`, AskedBy: "label x of y"}}
			err := CheckStatement(stating(FailureDomainsAnnotation, test.domains), Machine{}, want)
			refusal, refused := AsRefusal(err)
			switch {
			case test.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.refused != "" && (!refused || refusal.Reason != PoolNotForFailureDomain || !strings.Contains(refusal.Message, test.refused)):
				t.Errorf("got %v, want a refusal %s with %q", err, PoolNotForFailureDomain, test.refused)
			}
		})
	}
}

func TestPoolThatIsForSomeOfTheFailureDomainsIsUndecided(t *testing.T) {
	sites := []Site{{FailureDomain: "zone-a", Network: "seg-a"}, {FailureDomain: "zone-b", Network: "seg-b"}}
	for annotation, value := range map[string]string{FailureDomainsAnnotation: "zone-b", NetworksAnnotation: "seg-a"} {
		err := CheckStatement(stating(annotation, value), Machine{}, Want{Ask: Ask{Sites: sites}})
		if !errors.Is(err, ErrUndecided) {
			t.Errorf("%s: got %v, want that it is undecided", annotation, err)
		}
	}
}

func TestNetworkIsThatOfTheFailureDomain(t *testing.T) {
	device := Device{Index: 1, NetworkName: "seg-x"}
	for name, test := range map[string]struct {
		sites []Site
		want  string
	}{
		"no failure domains":        {nil, "seg-x"},
		"of one":                    {[]Site{{"zone-a", "seg-a"}}, "seg-a"},
		"of two that have the same": {[]Site{{"zone-a", "seg-a"}, {"zone-b", "seg-a"}}, "seg-a"},
		"of two that differ":        {[]Site{{"zone-a", "seg-a"}, {"zone-b", "seg-b"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := Ask{Device: device, Sites: test.sites}
			if got := want.Network(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	err := CheckStatement(stating(NetworksAnnotation, "seg-x"), Machine{}, Want{Ask: Ask{Device: device, Sites: []Site{{"zone-a", "seg-a"}}}})
	if refusal, refused := AsRefusal(err); !refused || !strings.Contains(refusal.Message, `device 1 is on "seg-a"`) {
		t.Errorf("got %v, want a refusal that names the network of the failure domain", err)
	}
}

func TestPoolIsForThoseThatItNamesOnly(t *testing.T) {
	for name, test := range map[string]struct {
		usedBy, namespace, cluster string
		reason                     Reason
	}{
		"its namespace":                   {"team-a", "team-a", "c", ""},
		"one of its namespaces":           {"team-b, team-a", "team-a", "", ""},
		"another namespace":               {"team-a", "team-b", "", PoolNotAllowed},
		"a namespace that only begins so": {"team", "team-a", "", PoolNotAllowed},
		"a namespace that begins so":      {"team-*", "team-a", "", ""},
		"any namespace":                   {"*", "team-a", "", ""},
		"its Cluster":                     {"team-a/prod", "team-a", "prod", ""},
		"another Cluster":                 {"team-a/prod", "team-a", "test", PoolNotAllowed},
		"no Cluster":                      {"team-a/prod", "team-a", "", PoolNotAllowed},
		"a Cluster of another namespace":  {"team-a/prod", "team-b", "prod", PoolNotAllowed},
		"Clusters that begin so":          {"team-a/prod-*", "team-a", "prod-1", ""},
		"a namespace beside a Cluster":    {"team-b/prod, team-a", "team-a", "test", ""},
		"nobody":                          {"", "team-a", "", PoolNotAllowed},
		"what is no namespace":            {"team-a, Team_B", "team-a", "", PoolInvalid},
		"a star in the middle":            {"te*m", "team-a", "", PoolInvalid},
		"no namespace before a Cluster":   {"/prod", "team-a", "prod", PoolInvalid},
		"no Cluster after a slash":        {"team-a/", "team-a", "prod", PoolInvalid},
		"two slashes":                     {"team-a/b/c", "team-a", "b", PoolInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			machine := Machine{NamespacedName: types.NamespacedName{Namespace: test.namespace, Name: "m"}, Cluster: test.cluster}
			err := CheckStatement(stating(UsedByAnnotation, test.usedBy), machine, Want{Ask: Ask{AskedBy: "label x of y"}})
			refusal, refused := AsRefusal(err)
			switch {
			case test.reason == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.reason != "" && (!refused || refusal.Reason != test.reason || !strings.Contains(refusal.Message, `IPPool "lab" in namespace "ns"`)):
				t.Errorf("got %v, want a refusal %s", err, test.reason)
			}
		})
	}
}

func TestPoolWithoutStatementsIsForAll(t *testing.T) {
	pool := stating("example.com/other", "x")
	if err := CheckStatement(pool, Machine{}, Want{}); err != nil {
		t.Errorf("refused: %v", err)
	}
	if SaysNoGateway(pool) {
		t.Error("it has no gateway")
	}
}

func TestGatewayOfAPoolIsLeftOutByOneWordOnly(t *testing.T) {
	none := stating(GatewayAnnotation, "none")
	if err := CheckStatement(none, Machine{}, Want{}); !SaysNoGateway(none) || err != nil {
		t.Errorf("got %t and error %v, want no gateway", SaysNoGateway(none), err)
	}
	for _, value := range []string{"", "None", "10.0.0.1"} {
		err := CheckStatement(stating(GatewayAnnotation, value), Machine{}, Want{})
		if refusal, refused := AsRefusal(err); !refused || refusal.Reason != PoolInvalid {
			t.Errorf("%q: got %v, want a refusal %s", value, err, PoolInvalid)
		}
	}
}

func TestChangedStatementIsSeen(t *testing.T) {
	for _, annotation := range Statements() {
		a, empty, none := stating(annotation, "a"), stating(annotation, ""), stating("other", "")
		if StatesTheSame(a, empty) || StatesTheSame(none, empty) || StatesTheSame(a, none) || !StatesTheSame(a, stating(annotation, "a")) {
			t.Errorf("%s: a change is not seen, or seen where there is none", annotation)
		}
	}
	if !StatesTheSame(stating("other", "a"), stating("other", "b")) {
		t.Error("what is no statement counts as one")
	}
}
