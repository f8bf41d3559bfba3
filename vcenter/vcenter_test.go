package vcenter

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/inventory"
)

const (
	username = "reader@vsphere.local"
	password = "swordfish"
)

// simulated is a vCenter with virtual machines that run, and how to get there by the environment.
func simulated(t *testing.T, machines int) (*simulator.Server, *simulator.Model, map[string]string) {
	t.Helper()
	model := simulator.VPX()
	model.Host, model.Machine = 0, machines
	if err := model.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(model.Remove)
	model.Service.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(username, password)}
	server := model.Service.NewServer()
	t.Cleanup(server.Close)
	return server, model, map[string]string{
		envURL: server.URL.Host, envUsername: username, envPassword: password,
		envKnownHosts: "", envInsecure: "true",
	}
}

func of(env map[string]string) Environment { return func(name string) string { return env[name] } }

// only is the one server that an environment names.
func only(t *testing.T, env map[string]string) Server {
	t.Helper()
	servers, err := Servers(t.Context(), nil, "", of(env))
	if err != nil {
		t.Fatal(err)
	}
	if len(servers) != 1 {
		t.Fatalf("got %v, want one", servers)
	}
	return servers[0]
}

// machinesOf are the virtual machines of the simulator, by their names.
func machinesOf(model *simulator.Model) []*simulator.VirtualMachine {
	var machines []*simulator.VirtualMachine
	for _, entity := range model.Map().All("VirtualMachine") {
		machines = append(machines, entity.(*simulator.VirtualMachine))
	}
	slices.SortFunc(machines, func(a, b *simulator.VirtualMachine) int { return strings.Compare(a.Name, b.Name) })
	return machines
}

// reports has a guest report what it has on one card of this network.
func reports(m *simulator.VirtualMachine, network string, ips ...string) {
	m.Guest.Net = []types.GuestNicInfo{{Network: network, IpAddress: ips}}
	m.Guest.IpAddress = ""
	if len(ips) > 0 {
		m.Guest.IpAddress = ips[0]
	}
}

// told is what was read, in words.
func told(v inventory.VCenter) []string {
	var texts []string
	for _, vm := range v.VirtualMachines {
		text := vm.Name
		for _, place := range vm.Places {
			text += fmt.Sprintf(" %s@%s", place.IP, place.Network)
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}

func TestGuestsAreReadWithTheirAddressesPageByPage(t *testing.T) {
	_, model, env := simulated(t, 7)
	machines := machinesOf(model)
	var want []string
	for i, m := range machines {
		ip := fmt.Sprintf("10.0.0.%d", 10+i)
		reports(m, "net", ip, "fe80::1", "2001:db8::1")
		want = append(want, fmt.Sprintf("%s %s@net 2001:db8::1@net", m.Name, ip))
	}
	server := only(t, env)
	server.page = 2

	read := server.Read(t.Context())

	if read.Err != nil || !slices.Equal(told(read), want) || len(read.Silent)+len(read.Hidden) > 0 {
		t.Errorf("got %q and %+v, want %q", told(read), read, want)
	}
	if uuid := read.VirtualMachines[0].UUID; !slices.ContainsFunc(machines, func(m *simulator.VirtualMachine) bool { return m.Config.Uuid == uuid }) {
		t.Errorf("got the UUID %q, which none has", uuid)
	}
	if sessions := len(model.Service.Context.Map.SessionManager().SessionList); sessions > 0 {
		t.Errorf("%d sessions were left behind", sessions)
	}
}

func TestVirtualMachinesWithoutAddresses(t *testing.T) {
	_, model, env := simulated(t, 5)
	machines := machinesOf(model)
	for _, m := range machines {
		reports(m, "net")
	}
	machines[1].Config.Template = true
	machines[2].Runtime.PowerState = types.VirtualMachinePowerStatePoweredOff
	machines[3].Config.ManagedBy = &types.ManagedByInfo{ExtensionKey: agents, Type: "cluster-agent"}
	machines[4].Runtime.PowerState = types.VirtualMachinePowerStateSuspended
	machines[4].Guest.IpAddress = "10.0.0.9"

	read := only(t, env).Read(t.Context())

	if want := []string{machines[4].Name + " 10.0.0.9@"}; !slices.Equal(told(read), want) || !slices.Equal(read.Silent, []string{machines[0].Name}) {
		t.Errorf("got %q, and %q without an address, want %q and the one that runs", told(read), read.Silent, want)
	}
}

func TestVirtualMachineThatMayNotBeReadIsTold(t *testing.T) {
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-7"}
	machines, err := loaded([]types.ObjectContent{{Obj: ref, MissingSet: []types.MissingProperty{{
		Path: "guest.net", Fault: types.LocalizedMethodFault{Fault: &types.NoPermission{}},
	}}}})
	if err != nil || len(machines) != 1 {
		t.Fatalf("got %v, %v", machines, err)
	}
	var v inventory.VCenter
	note(&v, &machines[0])
	if !slices.Equal(v.Hidden, []string{"vm-7"}) || len(v.VirtualMachines)+len(v.Silent) > 0 {
		t.Errorf("got %+v, want one that may not be read", v)
	}
}

func TestWhoMayNotLogInIsToldSoWithoutThePassword(t *testing.T) {
	_, _, env := simulated(t, 1)
	env[envPassword] = "not-the-password"
	server := only(t, env)

	err := server.Read(t.Context()).Err

	if err == nil || !strings.Contains(err.Error(), username) {
		t.Errorf("got %v, want that %s may not log in", err, username)
	}
	for _, text := range []string{fmt.Sprint(err), fmt.Sprint(server), fmt.Sprintf("%+v", server.String())} {
		if strings.Contains(text, "not-the-password") {
			t.Errorf("the password is in %s", text)
		}
	}
}

func TestCertificateHasToBeKnown(t *testing.T) {
	server, _, env := simulated(t, 1)
	env[envInsecure] = ""
	of := only(t, env)
	if err := of.Read(t.Context()).Err; err == nil || !strings.Contains(err.Error(), envAuthorities) {
		t.Errorf("got %v, want to be told how to have it trusted", err)
	}
	of.Thumbprint = soap.ThumbprintSHA1(server.Certificate())
	if err := of.Read(t.Context()).Err; err != nil {
		t.Errorf("with its thumbprint: %v", err)
	}
	of.Thumbprint = strings.Repeat("00:", 19) + "00"
	if err := of.Read(t.Context()).Err; err == nil {
		t.Error("with the thumbprint of another one it was read")
	}
}

// vsphereCluster names a vCenter, and an identity of this kind.
func vsphereCluster(name, server, kind, identity string) client.Object {
	cluster := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"server": server, "thumbprint": "AA:BB", "identityRef": map[string]any{"kind": kind, "name": identity},
	}}}
	cluster.SetAPIVersion("infrastructure.cluster.x-k8s.io/v1beta2")
	cluster.SetKind("VSphereCluster")
	cluster.SetNamespace("ns")
	cluster.SetName(name)
	return cluster
}

func secret(namespace, name, user string) client.Object {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Data:       map[string][]byte{"username": []byte(user), "password": []byte(password)},
	}
}

func identity(name, secretName string) client.Object {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"secretName": secretName}}}
	object.SetAPIVersion("infrastructure.cluster.x-k8s.io/v1beta2")
	object.SetKind(identityKind.Kind)
	object.SetName(name)
	return object
}

func TestServersAreThoseOfTheEnvironmentOrOfTheClusters(t *testing.T) {
	clusters := []client.Object{
		vsphereCluster("a", "vc-1", "Secret", "of-a"), vsphereCluster("b", "vc-1", "Secret", "of-b"), vsphereCluster("c", "vc-2:8443", identityKind.Kind, "all"),
		secret("ns", "of-a", "a"), secret("ns", "of-b", "b"), identity("all", "login"), secret(namespaceOfCAPV, "login", "all"),
	}
	for name, test := range map[string]struct {
		env     map[string]string
		objects []client.Object
		want    string
	}{
		"GOVC_URL alone":            {map[string]string{envURL: "https://me:pw@vc/sdk"}, clusters, "vc me pw "},
		"with who logs in":          {map[string]string{envURL: "vc", envUsername: "me", envPassword: "pw"}, clusters, "vc me pw "},
		"which says more":           {map[string]string{envURL: "you:no@vc", envUsername: "me", envPassword: "pw"}, nil, "vc me pw "},
		"nobody logs in":            {map[string]string{envURL: "vc"}, clusters, "GOVC_URL names vc, and nobody who logs in: set GOVC_USERNAME and GOVC_PASSWORD"},
		"a URL that is none":        {map[string]string{envURL: "https://me:s%zzcret@vc"}, nil, "GOVC_URL: it is not the URL of a vCenter, as in vcenter.example.com"},
		"those of VSphereClusters":  {nil, clusters, "vc-1 a swordfish AA:BB, vc-2:8443 all swordfish AA:BB"},
		"with a login of one's own": {map[string]string{envUsername: "me", envPassword: "pw"}, clusters, "vc-1 me pw AA:BB, vc-2:8443 me pw AA:BB"},
		"a Secret that is not there": {
			nil, clusters[:1],
			`finding who logs in to vc-1 for VSphereCluster ns/a: reading its Secret: secrets "of-a" not found; or set GOVC_USERNAME and GOVC_PASSWORD`,
		},
		"no VSphereCluster": {nil, nil, "no VSphereCluster names a vCenter here: set GOVC_URL, GOVC_USERNAME and GOVC_PASSWORD"},
	} {
		t.Run(name, func(t *testing.T) {
			scheme := runtime.NewScheme()
			if err := corev1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			// The product's own types have no more of these than it reads elsewhere.
			for _, kind := range []schema.GroupKind{capi.VSphereClusterKind, identityKind} {
				gvk := kind.WithVersion("v1beta2")
				scheme.AddKnownTypeWithName(gvk, &unstructured.Unstructured{})
				scheme.AddKnownTypeWithName(gvk.GroupVersion().WithKind(gvk.Kind+"List"), &unstructured.UnstructuredList{})
			}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(test.objects...).Build()

			servers, err := Servers(t.Context(), c, "", of(test.env))

			var got []string
			for _, s := range servers {
				if err == nil {
					got = append(got, strings.Join([]string{s.Host(), s.Username, s.password, s.Thumbprint}, " "))
				}
			}
			text := strings.Join(got, ", ")
			if err != nil {
				text = err.Error()
			}
			if text != test.want {
				t.Errorf("got %s, want %s", text, test.want)
			}
		})
	}
}
