package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// confined is how the API server names the policy that confines the manager.
const confined = "capv-static-ip-manager-writes"

// possessions are the objects that a thief of the manager's token finds.
type possessions struct {
	owner, set client.Object
	pool       *ipamv1.IPPool
	// fixed has an address from its user, and waiting none from anybody.
	machine, fixed, waiting *capvv1.VSphereMachine
	// cluster asks for no endpoint, asking waits for one, and hosted has its user's own.
	cluster, asking, hosted *capvv1.VSphereCluster
	// foreign is a claim of somebody else, and those of the contract are md-0's.
	claim, address, foreign        client.Object
	contractClaim, contractAddress client.Object
}

// possess makes one of each, with a machine that lives and one that waits.
func (s *scene) possess() possessions {
	s.Helper()
	p := possessions{
		owner: s.controlPlane("cp"), set: s.machineSet("md"), pool: harness.Pool(s.ns),
		machine: s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer)),
		waiting: harness.Machine(s.ns, "waiting", harness.WithDevices(harness.StaticDevice(), harness.DHCPDevice())),
		fixed:   harness.Machine(s.ns, "fixed", harness.WithDevices(harness.FixedDevice("192.0.2.7/24"))),
		cluster: harness.VSphereCluster(s.ns, "silent"),
		asking:  harness.VSphereCluster(s.ns, "asking", endpointOf(harness.OfMetal3)),
		hosted:  harness.VSphereCluster(s.ns, "hosted", endpointOf(harness.OfMetal3), harness.WithEndpoint("vip.example.com", 6443)),
		foreign: harness.Claim(s.ns, "vip", harness.DefaultPool),
	}
	s.create(harness.Cluster(s.ns, "asking", paused), p.asking, p.hosted)
	s.create(p.cluster, p.pool, p.machine, p.fixed, p.waiting, p.foreign)
	s.inClusterPool()
	s.create(s.inClusterMachine("md-0"))
	ip, contractIP := s.settled("cp-0"), s.settled("md-0")
	var errs [4]error
	p.claim, errs[0] = s.claim("cp-0")
	p.address, errs[1] = s.address(ip)
	p.contractAddress, errs[2] = s.address(contractIP)
	p.contractClaim, errs[3] = s.claim("md-0")
	if err := errors.Join(errs[:]...); err != nil {
		s.Fatal(err)
	}
	return p
}

// as is a client of somebody else.
func (s *scene) as(who harness.Credentials) client.Client {
	s.Helper()
	config := rest.CopyConfig(who.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return networks{next} })
	c, err := client.New(config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// write is what somebody tries to write: a merge patch, or a deletion.
type write struct {
	object func(p possessions) client.Object
	patch  string
	remove bool
	// status says that the patch is one of the status.
	status bool
}

// attempt returns the answer to a write that would change nothing if it is allowed.
func (s *scene) attempt(c client.Client, w write, p possessions) error {
	object := w.object(p).DeepCopyObject().(client.Object)
	if w.remove {
		return c.Delete(s.Context(), object, client.DryRunAll)
	}
	if w.status {
		return c.Status().Patch(s.Context(), object, client.RawPatch(types.MergePatchType, []byte(w.patch)), client.DryRunAll)
	}
	return c.Patch(s.Context(), object, client.RawPatch(types.MergePatchType, []byte(w.patch)), client.DryRunAll)
}

func ofOwner(p possessions) client.Object   { return p.owner }
func ofSet(p possessions) client.Object     { return p.set }
func ofPool(p possessions) client.Object    { return p.pool }
func ofMachine(p possessions) client.Object { return p.machine }
func ofCluster(p possessions) client.Object { return p.cluster }
func ofAsking(p possessions) client.Object  { return p.asking }
func ofHosted(p possessions) client.Object  { return p.hosted }
func ofFixed(p possessions) client.Object   { return p.fixed }
func ofWaiting(p possessions) client.Object { return p.waiting }
func ofClaim(p possessions) client.Object   { return p.claim }
func ofAddress(p possessions) client.Object { return p.address }
func ofForeign(p possessions) client.Object { return p.foreign }

// device is the patch of a machine's devices, the second of which has DHCP.
func device(first string) string {
	return `{"spec":{"network":{"devices":[{"networkName":"VM Network","dhcp4":false` + first + `},{"networkName":"VM Network","dhcp4":true}]}}}`
}

// saying is the patch of a status that has a condition of this type, in v1beta2.
func saying(condition string) string {
	return `{"status":{"conditions":[{"type":"` + condition + `","status":"False","reason":"x","message":"","lastTransitionTime":"2026-01-02T03:04:05Z"}]}}`
}

// thefts are writes that the manager's rights allow, and its work never needs.
var thefts = map[string]write{
	"commands of a control plane":         {object: ofOwner, patch: `{"spec":{"kubeadmConfigSpec":{"preKubeadmCommands":["id"]}}}`},
	"scale of a control plane":            {object: ofOwner, patch: `{"spec":{"replicas":5}}`},
	"label of a control plane":            {object: ofOwner, patch: `{"metadata":{"labels":{"cluster.x-k8s.io/cluster-name":"other"}}}`},
	"scale of a MachineSet":               {object: ofSet, patch: `{"spec":{"replicas":0}}`},
	"annotation of a MachineSet":          {object: ofSet, patch: `{"metadata":{"annotations":{"cluster.x-k8s.io/paused":""}}}`},
	"annotation off a MachineSet":         {object: ofSet, patch: `{"metadata":{"annotations":{"` + usersAnnotation + `":null}}}`},
	"replicas in a MachineSet's status":   {object: ofSet, status: true, patch: `{"status":{"replicas":7}}`},
	"another's condition of a MachineSet": {object: ofSet, status: true, patch: saying("Deleting")},
	"status of a control plane":           {object: ofOwner, status: true, patch: `{"status":{"initialization":{"controlPlaneInitialized":true}}}`},
	"finalizer on a MachineSet":           {object: ofSet, patch: `{"metadata":{"finalizers":["example.org/hold"]}}`},
	"VM template of a machine":            {object: ofMachine, patch: `{"spec":{"template":"mine"}}`},
	"network of a machine":                {object: ofMachine, patch: `{"spec":{"network":{"routes":[{"to":"192.0.2.0/24","via":"10.16.56.66","metric":1}]}}}`},
	"address of a machine":                {object: ofFixed, patch: `{"spec":{"network":{"devices":[{"networkName":"VM Network","dhcp4":false,"ipAddrs":["10.16.56.93/24"]}]}}}`},
	"CAPV's finalizer off a machine":      {object: ofMachine, patch: `{"metadata":{"finalizers":["` + ipam.ReleaseFinalizer + `"]}}`},
	"pool of a machine":                   {object: ofMachine, patch: `{"metadata":{"annotations":{"pools.capv-static-ip.dev/0":"other"}}}`},
	"owner of a machine":                  {object: ofMachine, patch: `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}]}}`},
	"another network for a machine":       {object: ofWaiting, patch: device(`,"ipAddrs":["10.16.56.93/24"],"macAddr":"00:50:56:00:00:01"`)},
	"address for a machine on DHCP":       {object: ofWaiting, patch: `{"spec":{"network":{"devices":[{"networkName":"VM Network","dhcp4":false},{"networkName":"VM Network","dhcp4":true,"ipAddrs":["10.16.56.93/24"]}]}}}`},
	"one device less":                     {object: ofWaiting, patch: `{"spec":{"network":{"devices":[{"networkName":"VM Network","dhcp4":false,"ipAddrs":["10.16.56.93/24"]}]}}}`},
	"address and more for a machine":      {object: ofWaiting, patch: strings.Replace(device(`,"ipAddrs":["10.16.56.93/24"]`), `{"spec":{`, `{"spec":{"numCPUs":64,`, 1)},
	"endpoint of a VSphereCluster":        {object: ofCluster, patch: `{"spec":{"controlPlaneEndpoint":{"host":"10.16.56.66","port":6443}}}`},
	"endpoint of another's":               {object: ofHosted, patch: `{"spec":{"controlPlaneEndpoint":{"host":"10.16.56.66","port":6443}}}`},
	"endpoint and more":                   {object: ofAsking, patch: `{"spec":{"server":"mine","controlPlaneEndpoint":{"host":"10.16.56.66","port":6443}}}`},
	"server of a VSphereCluster":          {object: ofAsking, patch: `{"spec":{"server":"mine"}}`},
	"pool of a VSphereCluster":            {object: ofCluster, patch: `{"metadata":{"annotations":{"pools.capv-static-ip.dev/control-plane-endpoint":"other"}}}`},
	"gateway of a pool":                   {object: ofPool, patch: `{"spec":{"gateway":"10.16.56.66"}}`},
	"name servers of a pool":              {object: ofPool, patch: `{"metadata":{"annotations":{"capv-static-ip.dev/nameservers":"192.0.2.66"}}}`},
	"pool of a claim":                     {object: ofClaim, patch: `{"spec":{"pool":{"name":"other"}}}`},
	"provider's finalizer off a claim":    {object: ofClaim, patch: `{"metadata":{"finalizers":["` + ipam.InUseFinalizer + `"]}}`},
	"other owner of a claim":              {object: ofClaim, patch: `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}]}}`},
	"mark on another's claim":             {object: ofForeign, patch: `{"metadata":{"labels":{"` + ipam.MachineLabel + `":"x"}}}`},
	"another's claim":                     {object: ofForeign, remove: true},
	"address object":                      {object: ofAddress, patch: `{"spec":{"gateway":"10.16.56.66"}}`},
	"label of an address":                 {object: ofAddress, patch: `{"metadata":{"labels":{"example.org/mine":""}}}`},
	"provider's finalizer off an address": {object: ofAddress, patch: `{"metadata":{"finalizers":["` + ipam.InUseFinalizer + `"]}}`},
	"owner of an address":                 {object: ofAddress, patch: `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}]}}`},
	"other pool as owner of an address":   {object: ofAddress, patch: `{"metadata":{"ownerReferences":[{"apiVersion":"ipam.metal3.io/v1alpha1","kind":"IPPool","name":"other","uid":"u"}]}}`},
	"address in use":                      {object: ofAddress, remove: true},
	"address in use, of the contract":     {object: ofContractAddress, remove: true},
}

// duties are writes of the manager that others of this package may not lead to.
var duties = map[string]write{
	"refusal on a MachineSet":    {object: ofSet, patch: `{"metadata":{"annotations":{"capv-static-ip.dev/refused-by":"x"}}}`},
	"refusal on a control plane": {object: ofOwner, patch: `{"metadata":{"annotations":{"capv-static-ip.dev/refused-by":"x"}}}`},
	"condition of a MachineSet":  {object: ofSet, status: true, patch: saying(ipam.AddressesAvailableCondition)},
	"condition of a plane":       {object: ofOwner, status: true, patch: saying(ipam.AddressesAvailableCondition)},
	"finalizer of an endpoint":   {object: ofCluster, patch: `{"metadata":{"finalizers":["` + ipam.ReleaseFinalizer + `"]}}`},
	"endpoint for one that asks": {object: ofAsking, patch: `{"spec":{"controlPlaneEndpoint":{"host":"10.16.56.66","port":6443}}}`},
	"touch of a pool":            {object: ofPool, patch: `{"metadata":{"annotations":{"capv-static-ip.dev/touched":"x"}}}`},
	"address for a machine that waits": {object: ofWaiting, patch: device(
		`,"ipAddrs":["10.16.56.93/24"],"gateway4":"10.16.56.1","nameservers":["10.16.56.2"],"searchDomains":["example.org"]`)},
	"cluster of a claim":    {object: ofClaim, patch: `{"metadata":{"labels":{"cluster.x-k8s.io/watch-filter":"x"}}}`},
	"mark on an address":    {object: ofAddress, patch: `{"metadata":{"labels":{"` + ipam.MachineLabel + `":"x"}}}`},
	"claim":                 {object: ofClaim, remove: true},
	"dead owner of address": {object: ofAddress, patch: `{"metadata":{"ownerReferences":[]}}`},
}

func TestStolenTokenOfTheManagerWritesOnlyWhatTheManagerDoes(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	p := s.possess()
	thief := s.as(shared.Identity())
	s.eventually("the policy to be in force", func(context.Context) error {
		return confinedBy(s.attempt(thief, thefts["scale of a MachineSet"], p))
	})

	for name, theft := range thefts {
		if err := confinedBy(s.attempt(thief, theft, p)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, duty := range duties {
		if err := s.attempt(thief, duty, p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	unmarked := harness.Claim(s.ns, "mine", harness.DefaultPool)
	if err := confinedBy(thief.Create(t.Context(), unmarked, client.DryRunAll)); err != nil {
		t.Errorf("a claim without a mark: %v", err)
	}
}

// confinedBy returns an error unless the policy is what refused a write.
func confinedBy(err error) error {
	if err == nil {
		return errors.New("it was allowed")
	}
	if !strings.Contains(err.Error(), confined) {
		return fmt.Errorf("it was refused, but by something else: %w", err)
	}
	return nil
}

func TestAccountsOfOthersAreNotConfined(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	set := s.machineSet("md")
	account := s.accountWithTheRights("somebody")

	s.eventually("somebody else to scale a MachineSet", func(context.Context) error {
		return s.attempt(s.as(account), write{object: ofSet, patch: `{"spec":{"replicas":0}}`}, possessions{set: set})
	})
}

// clusterctl installs into any namespace, and does not write that into the policy.
func TestManagerOfAnotherNamespaceIsConfined(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	set := s.machineSet("md")
	account := s.accountWithTheRights("capv-static-ip-manager")

	s.eventually("it to be kept from scaling a MachineSet", func(context.Context) error {
		return confinedBy(s.attempt(s.as(account), write{object: ofSet, patch: `{"spec":{"replicas":0}}`}, possessions{set: set}))
	})
}

// accountWithTheRights is a ServiceAccount that may do in the namespace what the
// manager may.
func (s *scene) accountWithTheRights(name string) harness.Credentials {
	s.Helper()
	account, err := s.env.ServiceAccount(s.ns, name)
	if err != nil {
		s.Fatal(err)
	}
	s.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "capv-static-ip-manager"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.ns, Name: name}},
	})
	return account
}
