package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"capv-static-ip.dev/tests/harness"
)

// keep lets everything run on, and says what can be done with it.
func (s *stage) keep(ctx context.Context) error {
	manifest := filepath.Join(s.plane.Dir, "machine.json")
	if err := s.writeManifest(manifest); err != nil {
		return err
	}
	s.out.heading("Everything runs on. In another terminal:")
	for _, line := range []string{
		"export KUBECONFIG=" + s.plane.Kubeconfig,
		"",
		"# who holds which address",
		"kubectl get ipaddresses.ipam.metal3.io -o custom-columns=ADDRESS:.spec.address,CLAIM:.spec.claim.name",
		"kubectl get vspheremachines -o custom-columns='MACHINE:.metadata.name,ADDRESSES:.spec.network.devices[*].ipAddrs'",
		"",
		"# one machine more: refused, as the pool is full",
		"kubectl create -f " + manifest,
		"",
		"# make room, and try again a moment later",
		"kubectl delete vspheremachine dkp-workers-7c9fk",
		"kubectl create -f " + manifest,
		"",
		"# what capv-static-ip says and counts",
		"kubectl events",
		"tail -f " + s.managers[0].LogPath,
		fmt.Sprintf("curl -s http://%s/metrics | grep ^capv_static_ip", s.managers[0].MetricsAddress()),
	} {
		s.out.say("%s", line)
	}
	s.out.blank()
	s.out.say("Ctrl-C ends all of it.")
	<-ctx.Done()
	s.out.say("Stopping.")
	return nil
}

// writeManifest writes a machine that kubectl can create.
func (s *stage) writeManifest(path string) error {
	machine, err := harness.Unstructured(s.worker("dkp-workers-mine"))
	if err != nil {
		return err
	}
	content, err := json.MarshalIndent(machine.Object, "", "  ")
	if err != nil {
		return fmt.Errorf("writing a manifest: %w", err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("writing a manifest: %w", err)
	}
	return nil
}
