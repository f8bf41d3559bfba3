package history

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestObjectsAreReadAsTheyAreStored(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		key, content string
		want         Object
	}{
		"machine": {
			key: "/registry/infrastructure.cluster.x-k8s.io/vspheremachines/ns/a",
			content: `{"metadata":{"namespace":"ns","name":"a","uid":"u","finalizers":["f"],"ownerReferences":[{"kind":"Machine","uid":"m"}],"labels":{"cluster.x-k8s.io/deployment-name":"md"},
				"annotations":{"torture.capv-static-ip.dev/pools":"IPPool/x,InClusterIPPool/y","torture.capv-static-ip.dev/by-hand":""}},
				"spec":{"network":{"devices":[{"ipAddrs":["10.0.0.1/24"]},{"ipAddrs":["10.0.0.2/24"]}]}},
				"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}],"address":5}}`,
			want: Object{
				Kind: Machine, Namespace: "ns", Name: "a", UID: "u", Finalizers: []string{"f"}, Owned: true, Deployment: "md",
				Addresses: []string{"10.0.0.1", "10.0.0.2"}, Asks: []string{"IPPool/x", "InClusterIPPool/y"}, ByHand: true,
			},
		},
		"VM of a machine": {
			key: "/registry/infrastructure.cluster.x-k8s.io/vspherevms/ns/a",
			content: `{"metadata":{"namespace":"ns","name":"a","uid":"v","ownerReferences":[{"kind":"VSphereMachine","uid":"u"}]},
				"spec":{"network":{"devices":[{"ipAddrs":["10.0.0.1/24"]}]}}}`,
			want: Object{Kind: VirtualMachine, Namespace: "ns", Name: "a", UID: "v", Owner: "u", Addresses: []string{"10.0.0.1"}},
		},
		"metal3's claim": {
			key: "/registry/ipam.metal3.io/ipclaims/ns/a-0",
			content: `{"metadata":{"namespace":"ns","name":"a-0","uid":"c","labels":{"capv-static-ip.dev/machine":"h"},
				"annotations":{"capv-static-ip.dev/machine-name":"a"}},"spec":{"pool":{"name":"x"}},"status":{"address":{"name":"x-10-0-0-1"}}}`,
			want: Object{Kind: Metal3Claim, Namespace: "ns", Name: "a-0", UID: "c", Machine: "a", Ours: true, Pool: "IPPool/x", Address: "x-10-0-0-1"},
		},
		"metal3's address": {
			key:     "/registry/ipam.metal3.io/ipaddresses/ns/x-10-0-0-1",
			content: `{"metadata":{"namespace":"ns","name":"x-10-0-0-1","uid":"i"},"spec":{"address":"10.0.0.1","claim":{"name":"a-0"},"pool":{"name":"x"}}}`,
			want:    Object{Kind: Metal3Address, Namespace: "ns", Name: "x-10-0-0-1", UID: "i", Pool: "IPPool/x", Claim: "a-0", Addresses: []string{"10.0.0.1"}},
		},
		"claim of the contract": {
			key: "/registry/ipam.cluster.x-k8s.io/ipaddressclaims/ns/a-1",
			content: `{"metadata":{"namespace":"ns","name":"a-1","uid":"c"},"spec":{"poolRef":{"kind":"InClusterIPPool","name":"y"}},
				"status":{"addressRef":{"name":"a-1"}}}`,
			want: Object{Kind: ContractClaim, Namespace: "ns", Name: "a-1", UID: "c", Pool: "InClusterIPPool/y", Address: "a-1"},
		},
		"address of the contract": {
			key: "/registry/ipam.cluster.x-k8s.io/ipaddresses/ns/a-1",
			content: `{"metadata":{"namespace":"ns","name":"a-1","uid":"i"},
				"spec":{"address":"10.0.0.2","claimRef":{"name":"a-1"},"poolRef":{"kind":"InClusterIPPool","name":"y"}}}`,
			want: Object{Kind: ContractAddress, Namespace: "ns", Name: "a-1", UID: "i", Pool: "InClusterIPPool/y", Claim: "a-1", Addresses: []string{"10.0.0.2"}},
		},
		"metal3's pool": {
			key:     "/registry/ipam.metal3.io/ippools/ns/x",
			content: `{"metadata":{"namespace":"ns","name":"x","uid":"p"},"spec":{"pools":[{"start":"10.0.0.1","end":"10.0.0.6"},{"start":"10.0.0.9","end":"10.0.0.9"}]}}`,
			want:    Object{Kind: Metal3Pool, Namespace: "ns", Name: "x", UID: "p", Size: 7},
		},
		"in-cluster pool": {
			key:     "/registry/ipam.cluster.x-k8s.io/inclusterippools/ns/y",
			content: `{"metadata":{"namespace":"ns","name":"y","uid":"p"},"spec":{"addresses":["10.0.0.1-10.0.0.6","10.0.0.9"],"prefix":24}}`,
			want:    Object{Kind: InClusterPool, Namespace: "ns", Name: "y", UID: "p", Size: 7},
		},
		"deployment": {
			key: "/registry/cluster.x-k8s.io/machinedeployments/ns/md",
			content: `{"metadata":{"namespace":"ns","name":"md","uid":"d","annotations":{"torture.capv-static-ip.dev/pools":"IPPool/x"}},
				"spec":{"replicas":3}}`,
			want: Object{Kind: MachineDeployment, Namespace: "ns", Name: "md", UID: "d", Replicas: 3, Asks: []string{"IPPool/x"}},
		},
		"Cluster": {
			key:     "/registry/cluster.x-k8s.io/clusters/ns/dkp",
			content: `{"metadata":{"namespace":"ns","name":"dkp","uid":"k"},"spec":{"paused":true}}`,
			want:    Object{Kind: Cluster, Namespace: "ns", Name: "dkp", UID: "k", Paused: true},
		},
		"Cluster that asks no pool for its endpoint": {
			key:     "/registry/cluster.x-k8s.io/clusters/ns/dkp",
			content: `{"metadata":{"namespace":"ns","name":"dkp","uid":"k"},"spec":{"controlPlaneEndpoint":{"host":"10.0.0.5","port":6443}}}`,
			want:    Object{Kind: Cluster, Namespace: "ns", Name: "dkp", UID: "k"},
		},
		"VSphereCluster with an endpoint of a pool": {
			key: "/registry/infrastructure.cluster.x-k8s.io/vsphereclusters/ns/cp",
			content: `{"metadata":{"namespace":"ns","name":"cp","uid":"k","annotations":{"torture.capv-static-ip.dev/pools":"IPPool/vips"}},
				"spec":{"controlPlaneEndpoint":{"host":"10.0.0.5","port":6443}}}`,
			want: Object{Kind: ControlPlane, Namespace: "ns", Name: "cp", UID: "k", Asks: []string{"IPPool/vips"}, Addresses: []string{"10.0.0.5"}},
		},
		"claim of an endpoint": {
			key: "/registry/ipam.metal3.io/ipclaims/ns/cp",
			content: `{"metadata":{"namespace":"ns","name":"cp","uid":"c","labels":{"capv-static-ip.dev/machine":"h"},
				"annotations":{"capv-static-ip.dev/vspherecluster-name":"cp"}},"spec":{"pool":{"name":"vips"}}}`,
			want: Object{Kind: Metal3Claim, Namespace: "ns", Name: "cp", UID: "c", Endpoint: "cp", Ours: true, Pool: "IPPool/vips"},
		},
		"pool whose addresses cool down": {
			key: "/registry/ipam.metal3.io/ippools/ns/x",
			content: `{"metadata":{"namespace":"ns","name":"x","uid":"p","annotations":{"capv-static-ip.dev/reuse-after":"10s"}},
				"spec":{"pools":[{"start":"fd00::10","end":"fd00::16"}]}}`,
			want: Object{Kind: Metal3Pool, Namespace: "ns", Name: "x", UID: "p", Size: 7, CoolDown: 10 * time.Second},
		},
		"address that cools down, in a long form": {
			key: "/registry/ipam.metal3.io/ipaddresses/ns/x-1",
			content: `{"metadata":{"namespace":"ns","name":"x-1","uid":"i","annotations":{"capv-static-ip.dev/released-at":"2026-01-02T03:04:05Z"}},
				"spec":{"address":"fd00:0:0::10","claim":{"name":"a-0"},"pool":{"name":"x"}}}`,
			want: Object{Kind: Metal3Address, Namespace: "ns", Name: "x-1", UID: "i", Pool: "IPPool/x", Claim: "a-0", Addresses: []string{"fd00::10"}, Cools: true},
		},
		"address that is a stored machine's": {
			key: "/registry/ipam.metal3.io/ipaddresses/ns/x-1",
			content: `{"metadata":{"namespace":"ns","name":"x-1","uid":"i","annotations":{"capv-static-ip.dev/machine-name":"a","capv-static-ip.dev/machine-uid":"u"}},
				"spec":{"address":"10.0.0.1","claim":{"name":"a-0"},"pool":{"name":"x"}}}`,
			want: Object{Kind: Metal3Address, Namespace: "ns", Name: "x-1", UID: "i", Pool: "IPPool/x", Claim: "a-0", Addresses: []string{"10.0.0.1"}, Machine: "a", MachineUID: "u"},
		},
		"machine without a name": {
			key:     "/registry/infrastructure.cluster.x-k8s.io/vspheremachines/ns/a-x7",
			content: `{"metadata":{"namespace":"ns","name":"a-x7","generateName":"a-","uid":"u","labels":{"cluster.x-k8s.io/cluster-name":"dkp"}}}`,
			want:    Object{Kind: Machine, Namespace: "ns", Name: "a-x7", UID: "u", Of: "dkp", Unnamed: true},
		},
	} {
		test.want.Revision = 7
		got, err := Reduce(test.key, []byte(test.content), 7)
		if err != nil || got == nil || !reflect.DeepEqual(*got, test.want) {
			t.Errorf("%s: got %+v, error %v, want %+v", name, got, err, test.want)
		}
	}
	if got, err := Reduce("/registry/cluster.x-k8s.io/machinesets/ns/a", []byte("{}"), 7); got != nil || err != nil {
		t.Errorf("of a kind that is not kept: %v, %v", got, err)
	}
}

func TestHistoryIsReadBackUpToALineThatWasCutOff(t *testing.T) {
	t.Parallel()
	records, err := Read(strings.NewReader(`{"time":"2026-01-02T03:00:00Z","mark":"settled"}` + "\n" + `{"time":"2026-01-`))
	if err != nil || len(records) != 1 || records[0].Mark != Settled {
		t.Errorf("read %v, error %v", records, err)
	}
}
