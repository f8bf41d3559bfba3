package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// deniedEndpoint begins the denial of a VSphereCluster.
const deniedEndpoint = `admission webhook "vsphereclusters.capv-static-ip.dev" denied the request: `

// endpointOf asks for an endpoint from a pool of the provider.
func endpointOf(f harness.Fixture) harness.Option {
	return harness.WithAnnotation("pools.capv-static-ip.dev/control-plane-endpoint", ref(f, f.PoolName))
}

// vips makes the pool that endpoints are of here. Their addresses are not those of other
// scenes: an endpoint counts in all namespaces.
func (s *scene) vips(f harness.Fixture, first, last int, options ...harness.Option) {
	s.Helper()
	s.create(f.Pool(s.ns, append([]harness.Option{f.WithIPs(first, last)}, options...)...))
}

// vsphereCluster reads a VSphereCluster as it is stored.
func (s *scene) vsphereCluster(name string) *capvv1.VSphereCluster {
	s.Helper()
	cluster := &capvv1.VSphereCluster{}
	if err := s.env.Client.Get(s.Context(), s.key(name), cluster); err != nil {
		s.Fatal(err)
	}
	return cluster
}

func (s *scene) expectEndpoint(name, host string, port int32) {
	s.Helper()
	if err := s.hasEndpoint(name, host, port); err != nil {
		s.Error(err)
	}
}

func (s *scene) hasEndpoint(name, host string, port int32) error {
	if got := s.vsphereCluster(name).Spec.ControlPlaneEndpoint; got.Host != host || got.Port != port {
		return fmt.Errorf("the endpoint of %s is %s:%d, want %s:%d", name, got.Host, got.Port, host, port)
	}
	return nil
}

func (s *scene) expectDeniedEndpoint(err error, text string) {
	s.Helper()
	if want := deniedEndpoint + s.text(text); err == nil || err.Error() != want {
		s.Errorf("got the error\n\t%v\nwant\n\t%s", err, want)
	}
}

// endpointIsHeld returns an error unless the address is protected for the VSphereCluster,
// and its claim adopted.
func (s *scene) endpointIsHeld(name, ip string) error {
	address, err := s.address(ip)
	if err != nil {
		return err
	}
	holder := ipam.Holder{Kind: ipam.OfCluster, Name: name}
	if ipam.HolderOf(address) != holder || !ipam.IsProtected(address) {
		return fmt.Errorf("address %s is not protected for VSphereCluster %s", ip, name)
	}
	for _, claim := range s.claims() {
		// metal3 leaves an address as it is that it binds to a claim which was made anew.
		answers := ipam.Answers(address, claim.GetUID()) || harness.ProviderOf(claim).ReadClaim(claim).Address == address.GetName()
		if _, requested := claim.GetAnnotations()[ipam.RequestedByAnnotation]; answers && holder.Marks(claim) && !requested {
			return nil
		}
	}
	return fmt.Errorf("the claim of %s is not adopted", ip)
}

// clusterUses makes the Cluster of a VSphereCluster, with the endpoint that Cluster API
// copies from it.
func (s *scene) clusterUses(name, ip string) *clusterv1.Cluster {
	s.Helper()
	cluster := harness.Cluster(s.ns, name, harness.WithEndpoint(ip, 6443), harness.WithAnnotation(harness.EndpointAnnotation, "true"))
	s.create(cluster)
	return cluster
}

func TestClusterGetsItsEndpoint(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 210, 213, grouped("vips"))
		old, err := harness.AsVersion(harness.VSphereCluster(s.ns, "old", harness.WithPool(f.PoolName)), "v1beta1")
		if err != nil {
			t.Fatal(err)
		}
		if err := unstructured.SetNestedMap(old.Object, map[string]any{"host": "", "port": int64(0)}, "spec", "controlPlaneEndpoint"); err != nil {
			t.Fatal(err)
		}

		s.create(harness.VSphereCluster(s.ns, "named", endpointOf(f)))
		s.create(harness.VSphereCluster(s.ns, "grouped", grouped("vips"), harness.WithEndpoint("", 8443)))
		s.create(old)

		s.expectEndpoint("named", f.IP(210), 6443)
		s.expectEndpoint("grouped", f.IP(211), 8443)
		s.expectEndpoint("old", f.IP(212), 6443)
		for i, name := range []string{"named", "grouped", "old"} {
			s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld(name, f.IP(210+i)) })
			if _, err := s.env.claimNamed(s, f, name); err != nil {
				t.Error(err)
			}
		}
		s.delete(s.vsphereCluster("named"))
		s.returned(f.IP(210))
	})
}

// claimNamed reads a claim of the provider.
func (e *environment) claimNamed(s *scene, f harness.Fixture, name string) (client.Object, error) {
	claim := ipam.EmptyClaim(f.Provider)
	return claim, e.Client.Get(s.Context(), s.key(name), claim)
}

func TestVSphereClusterThatAsksForNothingIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.vips(f, 214, 214)
	own := harness.VSphereCluster(s.ns, "own", endpointOf(f), harness.WithEndpoint("vip.example.com", 6443))

	s.create(harness.VSphereCluster(s.ns, "silent"), own)

	s.expectEndpoint("silent", "", 0)
	s.expectEndpoint("own", "vip.example.com", 6443)
	if finalizers := slices.Concat(s.vsphereCluster("silent").Finalizers, s.vsphereCluster("own").Finalizers); len(finalizers) > 0 {
		t.Errorf("there are the finalizers %v", finalizers)
	}
	s.expectNoClaims()
}

func TestAnnotationOfTheClusterWins(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 215, 215)
		s.create(harness.Cluster(s.ns, "prod", endpointOf(f)))

		s.create(harness.VSphereCluster(s.ns, "prod", harness.WithPool("nowhere")))

		s.expectEndpoint("prod", f.IP(215), 6443)
	})
}

func TestClusterWithAnEndpointIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.vips(f, 216, 216)
	s.create(harness.Cluster(s.ns, "prod", harness.WithEndpoint("10.77.0.9", 6443)))
	warned, told := s.warnedClient()

	if err := warned.Create(t.Context(), harness.VSphereCluster(s.ns, "prod", endpointOf(f))); err != nil {
		t.Fatal(err)
	}

	s.expectEndpoint("prod", "", 0)
	s.expectNoClaims()
	if want := `Cluster "prod" has the endpoint 10.77.0.9 already: no address is claimed`; !slices.Contains(told.texts, want) {
		t.Errorf("got the warnings %q, want %q", told.texts, want)
	}
}

func TestEndpointIsPutBackAndPinned(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 217, 217)
		s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f), harness.WithEndpoint("", 8443)))

		dropped := s.vsphereCluster("prod")
		dropped.Spec.ControlPlaneEndpoint = capvv1.APIEndpoint{}
		if err := s.env.Client.Update(t.Context(), dropped); err != nil {
			t.Fatal(err)
		}
		s.expectEndpoint("prod", f.IP(217), 8443)

		another := s.vsphereCluster("prod")
		another.Spec.ControlPlaneEndpoint.Host = "10.77.0.10"
		s.expectDeniedEndpoint(s.env.Client.Update(t.Context(), another),
			fmt.Sprintf(`controlPlaneEndpoint.host is %s from %s %q, which the cluster's certificates and clients use: keep it`, f.IP(217), f.Reference("").Kind, f.PoolName))

		// Without its annotation the address still tells.
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(217)) })
		bare := s.vsphereCluster("prod")
		delete(bare.Annotations, ipam.BindingsAnnotation)
		bare.Spec.ControlPlaneEndpoint.Host = "10.77.0.10"
		if err := s.env.Client.Update(t.Context(), bare); err == nil || !strings.Contains(err.Error(), "keep it") {
			t.Errorf("got %v, want a denial", err)
		}
	})
}

func TestEndpointSurvivesTheTopologyController(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.vips(f, 218, 218)
	intent := func() client.Object { return harness.VSphereCluster(s.ns, "prod", endpointOf(f)) }

	s.apply(intent(), "capi-topology")
	s.expectEndpoint("prod", f.IP(218), 6443)
	before := s.vsphereCluster("prod").ResourceVersion
	s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(218)) })
	dry := intent()
	if err := harness.Apply(t.Context(), s.env.Client, dry, "capi-topology", client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	s.apply(intent(), "capi-topology")

	s.expectEndpoint("prod", f.IP(218), 6443)
	if after := s.vsphereCluster("prod").ResourceVersion; after != before {
		t.Errorf("the apply of what is there has changed the VSphereCluster from version %s to %s", before, after)
	}
}

func TestVSphereClusterMadeAnewKeepsTheEndpointOfItsCluster(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 219, 220)
		s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
		cluster := s.clusterUses("prod", f.IP(219))
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(219)) })

		gone := s.vsphereCluster("prod")
		s.delete(gone)
		s.gone(gone)
		s.consistently("the endpoint to be kept for its Cluster", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(219)) })
		s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))

		s.expectEndpoint("prod", f.IP(219), 6443)
		again := s.vsphereCluster("prod")
		s.delete(again)
		s.gone(again)
		s.delete(cluster)
		s.returned(f.IP(219))
	})
}

// The in-cluster provider has the address go with its claim, so that protection alone keeps
// it: no claim gets it again for as long as its Cluster lives.
func TestVSphereClusterMadeAnewKeepsAnEndpointWhoseClaimIsGone(t *testing.T) {
	for first, late := range map[int]bool{240: false, 242: true} {
		t.Run(fmt.Sprintf("late %t", late), func(t *testing.T) {
			t.Parallel()
			f := harness.OfInCluster
			s := newScene(t, shared)
			s.vips(f, first, first+1)
			s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f)))
			cluster := s.clusterUses("prod", f.IP(first))
			s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(first)) })
			claim, err := s.env.claimNamed(s, f, "prod")
			if err != nil {
				t.Fatal(err)
			}
			s.delete(claim)
			s.gone(claim)
			gone := s.vsphereCluster("prod")
			s.delete(gone)
			s.gone(gone)

			asking := endpointOf(f)
			if late {
				asking = harness.WithLabel("example.org/asks", "later")
			}
			s.create(harness.VSphereCluster(s.ns, "prod", asking))
			if late {
				stored := s.vsphereCluster("prod")
				s.change(stored, func() { endpointOf(f)(stored) })
				s.eventually("it to be given the endpoint", func(context.Context) error {
					return s.hasEndpoint("prod", f.IP(first), 6443)
				})
			}

			s.expectEndpoint("prod", f.IP(first), 6443)
			s.consistently("the address to be protected", func(context.Context) error { return s.isProtected(f.IP(first)) })
			again := s.vsphereCluster("prod")
			s.delete(again)
			s.gone(again)
			s.delete(cluster)
			s.returned(f.IP(first))
		})
	}
}

func TestEndpointIsGivenBackLast(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 221, 221)
		s.create(harness.VSphereCluster(s.ns, "prod", endpointOf(f), harness.WithFinalizer("example.org/capv")))
		cluster := s.clusterUses("prod", f.IP(221))
		harness.WithFinalizer(hold)(cluster)
		s.change(cluster, func() { harness.WithFinalizer(hold)(cluster) })
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(221)) })

		s.delete(cluster)
		s.delete(s.vsphereCluster("prod"))
		s.consistently("the endpoint to be held while the machines go", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(221)) })
		going := s.vsphereCluster("prod")
		s.dropFinalizer(going, "example.org/capv")

		s.gone(going)
		s.returned(f.IP(221))
		s.dropFinalizer(cluster, hold)
	})
}

func TestClaimNamedLikeAMachinesIsNotMistaken(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 222, 225)
		// The claim of the endpoint has the name that is that of device 1 of machine "prod".
		s.create(harness.Cluster(s.ns, harness.DefaultCluster))
		s.create(harness.VSphereCluster(s.ns, "prod-1", endpointOf(f)))
		two := harness.WithDevices(harness.StaticDevice(), harness.StaticDevice())
		s.create(harness.Machine(s.ns, "prod", two, f.Ask(f.PoolName), withPoolOf("1", ref(f, f.PoolName))))
		s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod-1", f.IP(222)) })
		s.expectClaims(3)

		machine := s.machine("prod")
		s.delete(machine)
		s.gone(machine)

		s.eventually("only the endpoint to be left", func(context.Context) error {
			if claims := names(s.claims()); !slices.Equal(claims, []string{"prod-1"}) {
				return fmt.Errorf("there are the claims %v", claims)
			}
			return s.endpointIsHeld("prod-1", f.IP(222))
		})
		// And a VSphereCluster does not take that of a machine.
		s.create(harness.Machine(s.ns, "dev", f.Ask(f.PoolName)))
		s.expectDeniedEndpoint(s.env.Client.Create(t.Context(), harness.VSphereCluster(s.ns, "dev-0", endpointOf(f))),
			`claim "dev-0" in namespace "NAMESPACE" exists and belongs to something else: delete it, or give the VSphereCluster another name`)
	})
}

func TestMachinesAreNotGivenAnEndpoint(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 226, 227)
		s.create(harness.Cluster(s.ns, harness.DefaultCluster))
		s.create(harness.VSphereCluster(s.ns, "mine", harness.WithEndpoint(f.IP(226), 6443)))
		s.eventually("a VSphereCluster's own endpoint to be known", func(context.Context) error {
			err := s.env.Client.Create(t.Context(), harness.Machine(s.ns, "cp-0", f.Ask(f.PoolName)))
			return client.IgnoreAlreadyExists(err)
		})

		if got := s.ip("cp-0"); got != f.IP(227) {
			t.Errorf("the machine has %s, which is an endpoint", got)
		}
	})
}

func TestDryRunOfAnEndpointClaimsNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.vips(f, 228, 228)

	warned, told := s.warnedClient()
	if err := warned.Create(t.Context(), harness.VSphereCluster(s.ns, "prod", endpointOf(f)), client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	told.expect(s, `would claim 1 address of IPPool "dkp-cluster" (1 free)`)
	err := warned.Create(t.Context(), harness.VSphereCluster(s.ns, "prod", harness.WithPool("nowhere")), client.DryRunAll)

	if err != nil || len(told.texts) == 0 {
		t.Errorf("got %v, and the warnings %q", err, told.texts)
	}
	s.expectNoClaims()
}

func TestEndpointsThatCannotBeGivenAreDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.vips(f, 229, 229)
	create := func(name string, options ...harness.Option) error {
		return s.env.Client.Create(t.Context(), harness.VSphereCluster(s.ns, name, options...))
	}
	annotated := func(text string) harness.Option {
		return harness.WithAnnotation("pools.capv-static-ip.dev/control-plane-endpoint", text)
	}

	s.expectDeniedEndpoint(create("two", annotated("a,b")),
		"annotation pools.capv-static-ip.dev/control-plane-endpoint of the VSphereCluster asks for 2 addresses: a control plane has one endpoint")
	s.expectDeniedEndpoint(create("none", grouped("none")),
		`no pool in namespace "NAMESPACE" carries cluster.x-k8s.io/ip-pool-group=none, asked for by labels of the VSphereCluster: label a pool, or correct the labels there`)
	if err := create("missing", harness.WithPool("nowhere")); err == nil || !strings.Contains(err.Error(), "asked for by label cluster.x-k8s.io/ip-pool-name of the VSphereCluster") {
		t.Errorf("got %v", err)
	}
	s.create(f.Pool(s.ns, harness.WithPoolName("theirs"), f.WithIPs(228, 228), harness.WithAnnotation(ipam.UsedByAnnotation, "team-a")))
	s.expectDeniedEndpoint(create("others", annotated("IPPool/theirs")),
		`IPPool "theirs" in namespace "NAMESPACE" is not for namespace "NAMESPACE": ask its owner to add it to annotation capv-static-ip.dev/used-by, `+
			`or name another pool in annotation pools.capv-static-ip.dev/control-plane-endpoint of the VSphereCluster`)
	if err := create("first", annotated(ref(f, f.PoolName)+"="+f.IP(229))); err != nil {
		t.Fatal(err)
	}
	s.expectDeniedEndpoint(create("second", endpointOf(f)),
		`IPPool "dkp-cluster" in namespace "NAMESPACE" is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`)
	s.expectClaims(1)
}

func TestClaimOfAnEndpointThatWasNotStoredIsReaped(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.vips(f, 230, 230)
		refused := harness.VSphereCluster(s.ns, "prod", endpointOf(f))
		refused.Spec.IdentityRef.Kind = "Nonsense"

		if err := s.env.Client.Create(t.Context(), refused); err == nil {
			t.Fatal("the schema takes it")
		}

		s.expectClaims(1)
		s.within(gracePeriod+harness.Soon, "the claim to be reaped", s.isReturned(f.IP(230)))
	})
}
