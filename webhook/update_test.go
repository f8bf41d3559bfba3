package webhook

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/machine"
)

// playedDemand says for each machine that it asks for this pool, or fails.
type playedDemand struct {
	pool  string
	err   error
	asked int
}

func (d *playedDemand) Asks(_ context.Context, m *machine.Machine) (asks []ipam.Ask, warnings []string, err error) {
	d.asked++
	if m.Namespace != "ns" {
		return nil, nil, errors.New("no namespace")
	}
	for i := range m.Spec.Network.Devices {
		choices := []ipam.Choice{{Pool: metal3.PoolNamed(d.pool)}}
		asks = append(asks, ipam.Ask{Device: ipam.Device{Index: i}, Choices: choices, AskedBy: "the template"})
	}
	return asks, nil, d.err
}

func (d *playedDemand) IsPaused(context.Context, *machine.Machine) (bool, error) { return false, nil }

// boundOf is a machine of a template that holds an address of IPPool "pool".
func boundOf(template string) string {
	return `{"metadata":{"name":"cp","annotations":{"cluster.x-k8s.io/cloned-from-name":"` + template + `","capv-static-ip.dev/bindings":` +
		`"{\"machine\":\"cp\",\"bindings\":[{\"device\":{\"index\":0},\"pool\":{\"apiGroup\":\"ipam.metal3.io\",\"kind\":\"IPPool\",\"name\":\"pool\"},` +
		`\"claim\":\"cp-0\",\"address\":\"10.0.0.1/24\"}]}"},"finalizers":["capv-static-ip.dev/release"]},"spec":{"network":{"devices":[{"ipAddrs":["10.0.0.1/24"]}]}}}`
}

func TestUpdateToAnotherTemplate(t *testing.T) {
	for name, test := range map[string]struct {
		demand   playedDemand
		code     int32
		warnings int
	}{
		"of the same pool":           {demand: playedDemand{pool: "pool"}, code: http.StatusOK},
		"of another":                 {demand: playedDemand{pool: "other"}, code: http.StatusForbidden},
		"whose requests are refused": {demand: playedDemand{err: ipam.Refuse(ipam.PoolNameInvalid, "no pool")}, code: http.StatusOK, warnings: 1},
		"that cannot be read":        {demand: playedDemand{err: errors.New("down")}, code: http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			for _, dryRun := range []bool{false, true} {
				h := handler(&brokenAllocator{})
				h.Demand = &test.demand
				req := updateOf(boundOf("a"), boundOf("b"))
				req.DryRun = &dryRun

				response := h.Handle(t.Context(), req)

				if response.Result.Code != test.code || len(response.Warnings) != test.warnings {
					t.Errorf("dry run %t: got %d %q and warnings %q, want %d and %d warnings", dryRun,
						response.Result.Code, response.Result.Message, response.Warnings, test.code, test.warnings)
				}
				if test.code == http.StatusForbidden && !strings.Contains(response.Result.Message, "the template asks for other pools now: replace the machine") {
					t.Errorf("dry run %t: the message is %q", dryRun, response.Result.Message)
				}
			}
		})
	}
}

func TestUpdateWithinATemplateAsksForNothing(t *testing.T) {
	h, demand := handler(&brokenAllocator{}), &playedDemand{pool: "other"}
	h.Demand = demand

	response := h.Handle(t.Context(), updateOf(boundOf("a"), boundOf("a")))

	if !response.Allowed || demand.asked > 0 {
		t.Errorf("asked %d times, got %+v", demand.asked, response)
	}
}

// What cannot be kept is refused for that, not for a pool.
func TestUpdateToAnotherTemplateThatChangesTheDeviceIsRefusedForThat(t *testing.T) {
	h := handler(&brokenAllocator{})
	h.Demand = &playedDemand{pool: "other"}
	after := strings.Replace(boundOf("b"), `{"ipAddrs":`, `{"networkName":"b","ipAddrs":`, 1)

	v := h.decide(t.Context(), updateOf(boundOf("a"), after))

	wantRefusal(t, v.err, ipam.DevicePinned, "has another networkName")
}
