package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// guarded is how the API server names the policies of deploy/protection.
const guarded = "capv-static-ip-protect-"

// protection is a control plane on which deploy/protection is applied as it is,
// and whose controllers have the names that they have in a cluster.
type protection struct {
	*scene
	// alice has all rights, and is nobody that the protection is not for.
	alice client.Client
}

func TestProtectionFromPeople(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{ControllerAccounts: true}, 2)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"protection", "tenancy"} {
		if err := env.ApplyFolder(t.Context(), "deploy", folder); err != nil {
			t.Fatal(err)
		}
	}
	alice := administrator(t, env, "alice")
	at := func(play func(protection)) func(*testing.T) {
		return func(t *testing.T) { play(protection{scene: newScene(t, env), alice: alice}) }
	}
	t.Run("they cannot take what a machine uses", at(protection.refusesPeople))
	t.Run("they cannot take what an endpoint uses", at(protection.guardsEndpoints))
	t.Run("they can do all else", at(protection.letsPeopleWork))
	t.Run("they bring no bindings along, unless they restore", at(protection.refusesForgedBindings))
	t.Run("the annotation is the way out", at(protection.hasAWayOut))
	t.Run("who is exempt is a parameter", at(protection.exempts))
	t.Run("controllers, providers and capv-static-ip pass", at(protection.letsControllersPass))
	t.Run("clusterctl passes", at(protection.letsClusterctlPass))
	t.Run("a namespace goes with all that is in it", at(protection.letsANamespaceGo))
	t.Run("pools of all namespaces are for whom they name", at(protection.closesPools))
	t.Run("nobody is held without the parameter", at(protection.needsItsParameter))
}

// administrator is somebody with all rights.
func administrator(t *testing.T, env *environment, name string) client.Client {
	t.Helper()
	credentials, err := env.Credentials(name, "system:authenticated")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, env: env}
	s.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	})
	return s.as(credentials)
}

// heldBack returns an error unless the protection is what refused a write.
func heldBack(err error) error {
	if err == nil {
		return errors.New("it was allowed")
	}
	if !strings.Contains(err.Error(), guarded) {
		return fmt.Errorf("it was refused, but by something else: %w", err)
	}
	return nil
}

func ofContractClaim(p possessions) client.Object   { return p.contractClaim }
func ofContractAddress(p possessions) client.Object { return p.contractAddress }

// accidents are what people must not do to what a machine uses.
var accidents = map[string]write{
	"claim":                             {object: ofClaim, remove: true},
	"address":                           {object: ofAddress, remove: true},
	"claim of the contract":             {object: ofContractClaim, remove: true},
	"address of the contract":           {object: ofContractAddress, remove: true},
	"finalizers of a claim":             {object: ofClaim, patch: `{"metadata":{"finalizers":null}}`},
	"finalizers of an address":          {object: ofAddress, patch: `{"metadata":{"finalizers":null}}`},
	"finalizers of a contract's":        {object: ofContractAddress, patch: `{"metadata":{"finalizers":null}}`},
	"mark of a claim":                   {object: ofClaim, patch: `{"metadata":{"labels":{"` + ipam.MachineLabel + `":null}}}`},
	"other mark on a claim":             {object: ofContractClaim, patch: `{"metadata":{"annotations":{"` + ipam.MachineNameAnnotation + `":"other"}}}`},
	"owner of a claim":                  {object: ofClaim, patch: `{"metadata":{"ownerReferences":null}}`},
	"address that a claim asks for":     {object: ofClaim, patch: `{"metadata":{"annotations":{"ipAddress":"10.16.56.93"}}}`},
	"machine of an address":             {object: ofAddress, patch: `{"metadata":{"annotations":{"` + ipam.MachineUIDAnnotation + `":"other"}}}`},
	"spec of an address":                {object: ofContractAddress, patch: `{"spec":{"address":"10.16.57.93"}}`},
	"bindings of a machine":             {object: ofMachine, patch: `{"metadata":{"annotations":{"` + ipam.BindingsAnnotation + `":null}}}`},
	"other bindings of a machine":       {object: ofMachine, patch: `{"metadata":{"annotations":{"` + ipam.BindingsAnnotation + `":"{}"}}}`},
	"bindings of a machine without any": {object: ofFixed, patch: `{"metadata":{"annotations":{"` + ipam.BindingsAnnotation + `":"{}"}}}`},
}

func (p protection) refusesPeople() {
	has := p.possess()
	p.eventually("the protection to be in force", func(context.Context) error {
		return errors.Join(
			heldBack(p.attempt(p.alice, accidents["claim"], has)),
			heldBack(p.attempt(p.alice, accidents["bindings of a machine"], has)))
	})
	for name, accident := range accidents {
		if err := heldBack(p.attempt(p.alice, accident, has)); err != nil {
			p.Errorf("%s: %v", name, err)
		}
		// The group of administrators is no exemption: it is people.
		if err := heldBack(p.attempt(p.env.Client, accident, has)); err != nil {
			p.Errorf("%s, by the administrator: %v", name, err)
		}
	}
}

func (p protection) guardsEndpoints() {
	f := harness.OfMetal3
	p.vips(f, 245, 245)
	if err := p.alice.Create(p.Context(), harness.VSphereCluster(p.ns, "prod", endpointOf(f))); err != nil {
		p.Fatal(err)
	}
	p.eventually("the endpoint to be held", func(context.Context) error { return p.endpointIsHeld("prod", f.IP(245)) })
	var has possessions
	var errs [2]error
	has.claim, errs[0] = p.env.claimNamed(p.scene, f, "prod")
	has.address, errs[1] = p.address(f.IP(245))
	if err := errors.Join(errs[:]...); err != nil {
		p.Fatal(err)
	}
	has.cluster = p.vsphereCluster("prod")
	for name, accident := range map[string]write{
		"claim":              {object: ofClaim, remove: true},
		"address":            {object: ofAddress, remove: true},
		"mark of a claim":    {object: ofClaim, patch: `{"metadata":{"annotations":{"` + ipam.ClusterNameAnnotation + `":"other"}}}`},
		"mark of an address": {object: ofAddress, patch: `{"metadata":{"annotations":{"` + ipam.ClusterNameAnnotation + `":null}}}`},
		"finalizers":         {object: ofAddress, patch: `{"metadata":{"finalizers":null}}`},
		"bindings":           {object: ofCluster, patch: `{"metadata":{"annotations":{"` + ipam.BindingsAnnotation + `":null}}}`},
		"other bindings":     {object: ofCluster, patch: `{"metadata":{"annotations":{"` + ipam.BindingsAnnotation + `":"{}"}}}`},
	} {
		p.eventually(name+" to be held back", func(context.Context) error { return heldBack(p.attempt(p.alice, accident, has)) })
	}
	forged := harness.VSphereCluster(p.ns, "forged", harness.WithAnnotation(ipam.BindingsAnnotation, has.cluster.Annotations[ipam.BindingsAnnotation]))
	if err := heldBack(p.alice.Create(p.Context(), forged)); err != nil {
		p.Errorf("a VSphereCluster with the bindings of another: %v", err)
	}
	for name, work := range map[string]write{
		"its annotations": {object: ofCluster, patch: `{"metadata":{"annotations":{"example.org/note":"x"}}}`},
		"its spec":        {object: ofCluster, patch: `{"spec":{"server":"other.example.com"}}`},
		"its deletion":    {object: ofCluster, remove: true},
	} {
		if err := p.attempt(p.alice, work, has); err != nil {
			p.Errorf("%s: %v", name, err)
		}
	}
}

func (p protection) letsPeopleWork() {
	has := p.possess()
	for name, work := range map[string]write{
		"a claim of their own":        {object: ofForeign, remove: true},
		"a machine":                   {object: ofMachine, remove: true},
		"an annotation of a machine":  {object: ofMachine, patch: `{"metadata":{"annotations":{"example.org/note":"x"}}}`},
		"a label of a claim":          {object: ofClaim, patch: `{"metadata":{"labels":{"example.org/note":"x"}}}`},
		"an annotation of an address": {object: ofAddress, patch: `{"metadata":{"annotations":{"example.org/note":"x"}}}`},
	} {
		if err := p.attempt(p.alice, work, has); err != nil {
			p.Errorf("%s: %v", name, err)
		}
	}
	// The bindings of this one come from capv-static-ip, not from who makes it.
	if err := p.alice.Create(p.Context(), p.pooled("alices")); err != nil {
		p.Errorf("a machine that asks for an address: %v", err)
	}
	applied := p.pooled("applied")
	if err := harness.Apply(p.Context(), p.alice, applied, "alice"); err != nil {
		p.Errorf("a machine that is applied: %v", err)
	}
	harness.WithLabel("example.org/note", "x")(p.pooled("applied"))
	if err := harness.Apply(p.Context(), p.alice, p.pooled("applied", harness.WithLabel("example.org/note", "x")), "alice"); err != nil {
		p.Errorf("a machine that is applied again: %v", err)
	}
}

func (p protection) refusesForgedBindings() {
	forged := func(name string) client.Object {
		return harness.Machine(p.ns, name, harness.WithDevices(harness.DHCPDevice()),
			harness.WithAnnotation(ipam.BindingsAnnotation, `{"machine":"`+name+`","bindings":[]}`))
	}
	velero, err := p.env.ServiceAccount("velero", "velero")
	if err != nil {
		p.Fatal(err)
	}
	p.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.ns, Name: "velero"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "velero", Name: "velero"}},
	})

	if err := heldBack(p.alice.Create(p.Context(), forged("created"))); err != nil {
		p.Errorf("a machine that is created: %v", err)
	}
	unmanaged := forged("unmanaged")
	unmanaged.SetManagedFields([]metav1.ManagedFieldsEntry{{}})
	if err := heldBack(p.alice.Create(p.Context(), unmanaged)); err != nil {
		p.Errorf("a machine that is said to have no managers: %v", err)
	}
	if err := heldBack(harness.Apply(p.Context(), p.alice, forged("applied"), "alice")); err != nil {
		p.Errorf("a machine that is applied: %v", err)
	}
	if err := p.env.Client.Create(p.Context(), forged("moved"), client.DryRunAll); err != nil {
		p.Errorf("an administrator, as with clusterctl move: %v", err)
	}
	if err := p.as(velero).Create(p.Context(), forged("restored"), client.DryRunAll); err != nil {
		p.Errorf("what restores backups: %v", err)
	}
}

func (p protection) hasAWayOut() {
	has := p.possess()
	p.eventually("the protection to be in force", func(context.Context) error {
		return heldBack(p.attempt(p.alice, accidents["claim"], has))
	})
	for _, object := range []client.Object{has.claim, has.address, has.contractClaim, has.contractAddress} {
		title := fmt.Sprintf("%T %s", object, object.GetName())
		patch := client.MergeFrom(object.DeepCopyObject().(client.Object))
		harness.WithAnnotation("capv-static-ip.dev/allow-deletion", "true")(object)
		if err := p.alice.Patch(p.Context(), object, patch); err != nil {
			p.Errorf("allowing the deletion of %s: %v", title, err)
		}
		this := func(possessions) client.Object { return object }
		if err := p.attempt(p.alice, write{object: this, remove: true}, has); err != nil {
			p.Errorf("deleting %s: %v", title, err)
		}
		if err := p.attempt(p.alice, write{object: this, patch: `{"metadata":{"finalizers":null}}`}, has); err != nil {
			p.Errorf("stripping %s: %v", title, err)
		}
	}
}

// setParameter replaces one value of the parameter until the test ends.
func (p protection) setParameter(key, value string) {
	p.Helper()
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: harness.SystemNamespace, Name: "capv-static-ip-protection"}}
	var before string
	p.change(config, func() { before, config.Data[key] = config.Data[key], value })
	p.Cleanup(func() {
		patch := client.MergeFrom(config.DeepCopy())
		config.Data[key] = before
		if err := p.env.Client.Patch(context.Background(), config, patch); err != nil {
			p.Error(err)
		}
	})
}

func (p protection) exempts() {
	has := p.possess()
	for key, value := range map[string]string{
		"exempt-users":  "# a comment\n alice \nsystem:serviceaccount:capv-static-ip-system:capv-static-ip-manager\n",
		"exempt-groups": "system:serviceaccounts:capv-system\nsystem:authenticated\n",
	} {
		p.Run(key, func(t *testing.T) {
			in := protection{scene: &scene{T: t, env: p.env, ns: p.ns}, alice: p.alice}
			in.eventually("the protection to be in force", func(context.Context) error {
				return heldBack(in.attempt(in.alice, accidents["claim"], has))
			})
			in.setParameter(key, value)
			for name, accident := range accidents {
				if name == "spec of an address" {
					continue // which its own API refuses
				}
				in.eventually(name+" to be allowed", func(context.Context) error { return in.attempt(in.alice, accident, has) })
			}
		})
	}
}

func (p protection) letsControllersPass() {
	machine := p.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	p.create(harness.Pool(p.ns), machine)
	p.inClusterPool()
	p.create(p.inClusterMachine("md-0"), p.pooled("cp-1"))
	ips := []string{p.settled("cp-0"), p.settled("cp-1")}
	contractIP := p.settled("md-0")

	// Marks that get lost, by one who is exempt, come back.
	for _, name := range []string{"cp-0", "md-0"} {
		bindings := p.machine(name).Annotations[ipam.BindingsAnnotation]
		capi, err := p.env.ServiceAccount("capi-system", "capi-manager")
		if err != nil {
			p.Fatal(err)
		}
		p.grant("capi-system", "capi-manager")
		lost := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":null}}`))
		if err := p.as(capi).Patch(p.Context(), p.machine(name), lost); err != nil {
			p.Errorf("Cluster API drops all annotations: %v", err)
		}
		p.eventually("the bindings of "+name+" to come back", func(context.Context) error {
			if got := p.machine(name).Annotations[ipam.BindingsAnnotation]; got != bindings {
				return fmt.Errorf("they are %s", got)
			}
			return nil
		})
	}
	p.delete(p.machine("cp-0"))
	p.dropFinalizer(machine, harness.MachineFinalizer)
	p.delete(p.machine("cp-1"), client.PropagationPolicy(metav1.DeletePropagationForeground))
	p.delete(p.machine("md-0"))
	for _, ip := range ips {
		p.returned(ip)
	}
	p.returned(contractIP)
	p.noClaims()
}

// grant gives a ServiceAccount all rights in the namespace.
func (p protection) grant(namespace, name string) {
	p.Helper()
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.ns, Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
	}
	if err := client.IgnoreAlreadyExists(p.env.Client.Create(p.Context(), binding)); err != nil {
		p.Fatal(err)
	}
}

func (p protection) letsClusterctlPass() {
	cluster := harness.Cluster(p.ns, harness.DefaultCluster)
	p.create(harness.Pool(p.ns), cluster, p.pooled("cp-0"))
	ip := p.settled("cp-0")
	claim, err := p.claim("cp-0")
	if err != nil {
		p.Fatal(err)
	}
	address, err := p.address(ip)
	if err != nil {
		p.Fatal(err)
	}
	p.change(cluster, func() { cluster.Spec.Paused = new(true) })
	for _, object := range []client.Object{claim, address, p.machine("cp-0"), cluster} {
		p.deleteForMove(object)
		p.stripFinalizers(object)
	}
}

func (p protection) letsANamespaceGo() {
	p.create(harness.Pool(p.ns), p.pooled("cp-0"))
	p.inClusterPool()
	p.create(p.inClusterMachine("md-0"))
	p.settled("cp-0")
	p.settled("md-0")

	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.ns}}
	if err := p.alice.Delete(p.Context(), namespace); err != nil {
		p.Fatal(err)
	}
	if err := harness.WaitGone(p.Context(), p.env.Client, namespace, 5*harness.Soon); err != nil {
		p.Error(err)
	}
}

func (p protection) needsItsParameter() {
	has := p.possess()
	p.eventually("the protection to be in force", func(context.Context) error {
		return heldBack(p.attempt(p.alice, accidents["claim"], has))
	})
	p.delete(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: harness.SystemNamespace, Name: "capv-static-ip-protection"}})
	p.eventually("the protection to hold nobody", func(context.Context) error {
		return p.attempt(p.alice, accidents["claim"], has)
	})
}
