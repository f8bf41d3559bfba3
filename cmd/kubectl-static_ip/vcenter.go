package main

import (
	"context"
	"os"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/vcenter"
)

// vcenterTime bounds the reading of one vCenter.
const vcenterTime = 2 * time.Minute

// vcenterUsage is the help of the flag that has vCenters asked.
const vcenterUsage = "Look at the addresses that virtual machines in vCenter report, too: of GOVC_URL, or else of the VSphereClusters. " +
	"Who logs in is said by GOVC_USERNAME and GOVC_PASSWORD, or else by the VSphereCluster."

// vcenters reads the vCenters that the environment names, or the VSphereClusters of a namespace,
// all if it is empty.
func vcenters(ctx context.Context, c client.Client, namespace string) (func(context.Context) []inventory.VCenter, error) {
	servers, err := vcenter.Servers(ctx, c, namespace, os.Getenv)
	if err != nil {
		return nil, exit{exitUsage, err}
	}
	return func(ctx context.Context) []inventory.VCenter {
		all := make([]inventory.VCenter, 0, len(servers))
		for _, server := range servers {
			all = append(all, readWithin(ctx, server))
		}
		return all
	}, nil
}

func readWithin(ctx context.Context, server vcenter.Server) inventory.VCenter {
	ctx, cancel := context.WithTimeout(ctx, vcenterTime)
	defer cancel()
	return server.Read(ctx)
}
