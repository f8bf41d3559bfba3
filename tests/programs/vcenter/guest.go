package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"sigs.k8s.io/yaml"
)

// nic is a network card as the metadata configures it.
type nic struct {
	Match struct {
		MACAddress string `json:"macaddress"`
	} `json:"match"`
	DHCP4     bool     `json:"dhcp4"`
	Addresses []string `json:"addresses"`
}

// readMetadata returns the metadata that a machine was given, decoded.
func readMetadata(config []types.BaseOptionValue) (string, error) {
	values := map[string]string{}
	for _, option := range config {
		if option == nil {
			continue
		}
		if value := option.GetOptionValue(); value != nil {
			values[value.Key] = fmt.Sprint(value.Value)
		}
	}
	text := []byte(values["guestinfo.metadata"])
	encoding := values["guestinfo.metadata.encoding"]
	if len(text) == 0 || encoding == "" {
		return string(text), nil
	}
	decoded, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil || (encoding != "gzip+base64" && encoding != "gz+b64") {
		return string(decoded), err
	}
	reader, err := gzip.NewReader(bytes.NewReader(decoded))
	if err != nil {
		return "", err
	}
	plain, err := io.ReadAll(reader)
	return string(plain), err
}

// parseNetwork returns the cards that metadata configures, in order.
func parseNetwork(metadata string) []nic {
	var document struct {
		Network struct {
			Ethernets map[string]nic `json:"ethernets"`
		} `json:"network"`
	}
	if yaml.Unmarshal([]byte(metadata), &document) != nil {
		return nil
	}
	var ids []string
	for id := range document.Network.Ethernets {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	nics := make([]nic, 0, len(ids))
	for _, id := range ids {
		nics = append(nics, document.Network.Ethernets[id])
	}
	return nics
}

// guests plays the guest of every virtual machine.
type guests struct {
	recorder *recorder
	registry *simulator.Registry
	ctx      *simulator.Context
	// leases has the address that DHCP gave to a card, by its MAC address.
	leases map[string]netip.Addr
	next   netip.Addr
}

func newGuests(ctx context.Context, registry *simulator.Registry, recorder *recorder) *guests {
	return &guests{
		recorder: recorder, registry: registry,
		ctx:    &simulator.Context{Context: ctx, Map: registry},
		leases: map[string]netip.Addr{},
		// A network for tests of networks, which nobody's pool is in.
		next: netip.MustParseAddr("198.18.0.10"),
	}
}

func (g *guests) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.recorder.wake:
		}
		for _, reference := range g.recorder.takeChanged() {
			if machine, ok := g.registry.Get(reference).(*simulator.VirtualMachine); ok {
				g.registry.WithLock(g.ctx, machine, func() { g.report(machine) })
			}
		}
	}
}

// report sets what VMware Tools would say of the guest.
func (g *guests) report(machine *simulator.VirtualMachine) {
	on := machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	var cards []types.GuestNicInfo
	if on && machine.Config != nil {
		cards = g.cards(&machine.VirtualMachine)
	}
	if machine.Guest == nil || sameCards(machine.Guest.Net, cards) {
		return
	}
	status, running := types.VirtualMachineToolsStatusToolsNotRunning, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	if len(cards) > 0 {
		status, running = types.VirtualMachineToolsStatusToolsOk, types.VirtualMachineToolsRunningStatusGuestToolsRunning
	}
	first := ""
	if len(cards) > 0 && len(cards[0].IpAddress) > 0 {
		first = cards[0].IpAddress[0]
	}
	g.registry.Update(g.ctx, machine, []types.PropertyChange{
		{Name: "guest.net", Val: cards},
		{Name: "guest.ipAddress", Val: first},
		{Name: "summary.guest.ipAddress", Val: first},
		{Name: "guest.toolsStatus", Val: status},
		{Name: "guest.toolsRunningStatus", Val: string(running)},
	})
}

func sameCards(a, b []types.GuestNicInfo) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

// cards are the machine's cards with the addresses that the guest has set.
func (g *guests) cards(machine *mo.VirtualMachine) []types.GuestNicInfo {
	metadata, err := readMetadata(machine.Config.ExtraConfig)
	if err != nil || metadata == "" {
		return nil
	}
	nics := parseNetwork(metadata)
	var cards []types.GuestNicInfo
	for _, device := range machine.Config.Hardware.Device {
		ethernet, ok := device.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		card := ethernet.GetVirtualEthernetCard()
		i := slices.IndexFunc(nics, func(n nic) bool { return strings.EqualFold(n.Match.MACAddress, card.MacAddress) })
		if i < 0 {
			continue
		}
		info := types.GuestNicInfo{Network: networkOf(card, g.recorder.networks), MacAddress: card.MacAddress, Connected: true, DeviceConfigId: card.Key}
		for _, text := range nics[i].Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				info.IpAddress = append(info.IpAddress, prefix.Addr().String())
			}
		}
		if nics[i].DHCP4 {
			info.IpAddress = append(info.IpAddress, g.lease(card.MacAddress).String())
		}
		cards = append(cards, info)
	}
	return cards
}

// lease is what a DHCP server would answer.
func (g *guests) lease(mac string) netip.Addr {
	if _, ok := g.leases[mac]; !ok {
		g.leases[mac], g.next = g.next, g.next.Next()
	}
	return g.leases[mac]
}
