package main

import (
	"context"
	"fmt"
	"net/url"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Categories and the region's tag, by which CAPV knows zones.
const (
	regionCategory = "k8s-region"
	zoneCategory   = "k8s-zone"
	region         = "region-0"
)

// zones are the tags of the clusters, in the order of these.
func zones() []string { return []string{"zone-a", "zone-b", "zone-c"} }

// tagZones tags the datacenter as the region, and each of its clusters as a zone.
func tagZones(ctx context.Context, client *vim25.Client, user *url.Userinfo) error {
	session := rest.NewClient(client)
	if err := session.Login(ctx, user); err != nil {
		return fmt.Errorf("logging in to tag zones: %w", err)
	}
	defer func() { _ = session.Logout(ctx) }()
	finder := find.NewFinder(client)
	datacenter, err := finder.Datacenter(ctx, "DC0")
	if err != nil {
		return err
	}
	manager := tags.NewManager(session)
	if err := tag(ctx, manager, regionCategory, map[string]object.Reference{region: datacenter}); err != nil {
		return err
	}
	clusters := map[string]object.Reference{}
	for i, zone := range zones() {
		if clusters[zone], err = finder.ClusterComputeResource(ctx, fmt.Sprintf("/DC0/host/DC0_C%d", i)); err != nil {
			return err
		}
	}
	return tag(ctx, manager, zoneCategory, clusters)
}

// tag makes a category, and in it a tag for each object.
func tag(ctx context.Context, manager *tags.Manager, category string, objects map[string]object.Reference) error {
	id, err := manager.CreateCategory(ctx, &tags.Category{Name: category, Cardinality: "SINGLE"})
	if err != nil {
		return fmt.Errorf("making category %s: %w", category, err)
	}
	for name, tagged := range objects {
		made, err := manager.CreateTag(ctx, &tags.Tag{Name: name, CategoryID: id})
		if err != nil {
			return fmt.Errorf("making tag %s: %w", name, err)
		}
		if err := manager.AttachTag(ctx, made, tagged); err != nil {
			return fmt.Errorf("attaching tag %s: %w", name, err)
		}
	}
	return nil
}

// networkNames are the names of the networks, by how cards refer to them.
func networkNames(registry *simulator.Registry) map[string]string {
	names := map[string]string{}
	for _, network := range registry.All("DistributedVirtualPortgroup") {
		group := network.(*simulator.DistributedVirtualPortgroup)
		names[group.Self.Value] = group.Name
	}
	return names
}

// networkOf is the name of the network that a card is connected to.
func networkOf(card *types.VirtualEthernetCard, names map[string]string) string {
	switch backing := card.Backing.(type) {
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		return names[backing.Port.PortgroupKey]
	case *types.VirtualEthernetCardNetworkBackingInfo:
		return backing.DeviceName
	}
	return ""
}

// networksOf are the names of the networks of a machine's cards, in their order.
func networksOf(machine *mo.VirtualMachine, names map[string]string) []string {
	var networks []string
	for _, device := range machine.Config.Hardware.Device {
		if ethernet, ok := device.(types.BaseVirtualEthernetCard); ok {
			networks = append(networks, networkOf(ethernet.GetVirtualEthernetCard(), names))
		}
	}
	return networks
}
