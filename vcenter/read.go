package vcenter

import (
	"context"
	"fmt"
	"net/url"
	"slices"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/inventory"
)

// pageSize is how many virtual machines one answer has.
const pageSize = 500

// agents made those virtual machines that vSphere runs for itself, as for DRS. They have no
// addresses.
const agents = "com.vmware.vim.eam"

// properties are what is read of each virtual machine.
var properties = []string{"name", "config.uuid", "config.template", "config.managedBy", "runtime.powerState", "guest.net", "guest.ipAddress"}

// Read reads what a vCenter has, as far as who logs in may see it. What it may not see at all it
// is not told of.
func (s Server) Read(ctx context.Context) inventory.VCenter {
	v := inventory.VCenter{Server: s.Host()}
	machines, err := s.machines(ctx)
	if err != nil {
		v.Err = err
		return v
	}
	for i := range machines {
		note(&v, &machines[i])
	}
	return v
}

// note adds one virtual machine to what a vCenter has. A template has no guest.
func note(v *inventory.VCenter, m *machine) {
	if m.hidden {
		v.Hidden = append(v.Hidden, m.name())
		return
	}
	if m.Config != nil && m.Config.Template {
		return
	}
	vm := inventory.VirtualMachine{Name: m.name(), Places: placesOf(m.Guest)}
	isAgent := false
	if m.Config != nil {
		vm.UUID = m.Config.Uuid
		isAgent = m.Config.ManagedBy != nil && m.Config.ManagedBy.ExtensionKey == agents
	}
	if len(vm.Places) > 0 {
		v.VirtualMachines = append(v.VirtualMachines, vm)
	} else if m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && !isAgent {
		v.Silent = append(v.Silent, vm.Name)
	}
}

// placesOf are the addresses that a guest reports, with the networks of its cards.
func placesOf(guest *types.GuestInfo) []capi.Place {
	if guest == nil {
		return nil
	}
	var places []capi.Place
	add := func(text, network string) {
		ip := capi.ParseAddress(text)
		isKnown := slices.ContainsFunc(places, func(p capi.Place) bool { return p.IP == ip })
		if ip.IsValid() && !isKnown && !ip.IsLinkLocalUnicast() && !ip.IsLoopback() {
			places = append(places, capi.Place{IP: ip, Network: network})
		}
	}
	for _, card := range guest.Net {
		for _, text := range card.IpAddress {
			add(text, card.Network)
		}
	}
	add(guest.IpAddress, "")
	return places
}

// machine is a virtual machine as it was read. Hidden says that not all of it may be.
type machine struct {
	mo.VirtualMachine
	hidden bool
}

// name is that of the virtual machine, or what the vCenter calls it where that may not be read.
func (m *machine) name() string {
	if m.Name == "" {
		return m.Self.Value
	}
	return m.Name
}

// machines are all virtual machines, page by page.
func (s Server) machines(ctx context.Context) ([]machine, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	sessions := session.NewManager(client)
	if err := sessions.Login(ctx, s.login()); err != nil {
		return nil, fmt.Errorf("logging in as %q: %w", s.Username, err)
	}
	// It ends whatever becomes of the request.
	defer func() { _ = sessions.Logout(context.WithoutCancel(ctx)) }()

	all, err := view.NewManager(client).CreateContainerView(ctx, client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		return nil, fmt.Errorf("looking for virtual machines: %w", err)
	}
	defer func() { _ = all.Destroy(context.WithoutCancel(ctx)) }()
	skip := true
	response, err := property.DefaultCollector(client).RetrieveProperties(ctx, types.RetrieveProperties{SpecSet: []types.PropertyFilterSpec{{
		ObjectSet: []types.ObjectSpec{{
			Obj: all.Reference(), Skip: &skip,
			SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: all.Reference().Type, Path: "view"}},
		}},
		PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: properties}},
	}}}, s.page)
	if err != nil {
		return nil, fmt.Errorf("reading virtual machines: %w", err)
	}
	return loaded(response.Returnval)
}

// loaded are virtual machines as they were sent. What may not be read of one is missing in it.
func loaded(content []types.ObjectContent) ([]machine, error) {
	machines := make([]machine, 0, len(content))
	for _, sent := range content {
		m := machine{hidden: slices.ContainsFunc(sent.MissingSet, func(missing types.MissingProperty) bool {
			_, denied := missing.Fault.Fault.(*types.NoPermission)
			return denied
		})}
		sent.MissingSet = nil
		if err := mo.LoadObjectContent([]types.ObjectContent{sent}, &m.VirtualMachine); err != nil {
			return nil, fmt.Errorf("reading virtual machine %s: %w", sent.Obj.Value, err)
		}
		machines = append(machines, m)
	}
	return machines, nil
}

// connect is a client that has not logged in yet.
func (s Server) connect(ctx context.Context) (*vim25.Client, error) {
	plain := *s.url
	plain.User = nil
	transport := soap.NewClient(&plain, s.Insecure)
	if s.Thumbprint != "" {
		transport.SetThumbprint(plain.Host, s.Thumbprint)
	}
	if s.knownHosts != "" {
		if err := transport.LoadThumbprints(s.knownHosts); err != nil {
			return nil, fmt.Errorf("reading the thumbprints of %s: %w", envKnownHosts, err)
		}
	}
	if s.authorities != "" {
		if err := transport.SetRootCAs(s.authorities); err != nil {
			return nil, fmt.Errorf("reading the certificates of %s: %w", envAuthorities, err)
		}
	}
	client, err := vim25.NewClient(ctx, transport)
	if err != nil && soap.IsCertificateUntrusted(err) {
		return nil, fmt.Errorf("reaching it: %w; have its certificate trusted by %s or %s, or not looked at by %s", err, envAuthorities, envKnownHosts, envInsecure)
	}
	if err != nil {
		return nil, fmt.Errorf("reaching it: %w", err)
	}
	return client, nil
}

func (s Server) login() *url.Userinfo { return url.UserPassword(s.Username, s.password) }
