package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/docs"
	"capv-static-ip.dev/tests/harness"
)

// createAsking makes the scene's Cluster, whose VSphereCluster asks for an endpoint with
// this port from a pool, and waits until the Cluster has it.
func (s *scene) createAsking(by harness.Fixture, pool string, port int32, options ...harness.Option) {
	s.Helper()
	s.create(s.asking(by, pool, port, options...)...)
	s.hasEndpoint(harness.DefaultCluster)
}

// asking is the scene's Cluster, whose VSphereCluster asks for an endpoint.
func (s *scene) asking(by harness.Fixture, pool string, port int32, options ...harness.Option) []client.Object {
	s.Helper()
	objects, err := s.stack.Objects(s.ns, harness.DefaultCluster, options...)
	if err != nil {
		s.Fatal(err)
	}
	askFor(objects, by, pool, port)
	return objects
}

// askFor has the VSphereCluster among the objects of a Cluster ask for an endpoint.
func askFor(objects []client.Object, by harness.Fixture, pool string, port int32) {
	for _, object := range objects {
		switch object := object.(type) {
		case *capvv1.VSphereCluster:
			object.Spec.ControlPlaneEndpoint = capvv1.APIEndpoint{Port: port}
			reference := by.Reference(pool)
			harness.WithAnnotation("pools.capv-static-ip.dev/control-plane-endpoint", reference.Kind+"/"+pool)(object)
		case *clusterv1.Cluster:
			object.Spec.ControlPlaneEndpoint = clusterv1.APIEndpoint{}
			harness.WithAnnotation(harness.EndpointAnnotation, "true")(object)
		}
	}
}

// hasEndpoint waits until a Cluster has the endpoint of its VSphereCluster.
func (s *scene) hasEndpoint(name string) {
	s.Helper()
	s.eventually(provisioned, "the Cluster to have its endpoint", func(context.Context) error {
		cluster, infrastructure := s.clustersNamed(name)
		if cluster.Spec.ControlPlaneEndpoint.Host == "" || cluster.Spec.ControlPlaneEndpoint.Host != infrastructure.Spec.ControlPlaneEndpoint.Host {
			return fmt.Errorf("it has %v, and the VSphereCluster %v", cluster.Spec.ControlPlaneEndpoint, infrastructure.Spec.ControlPlaneEndpoint)
		}
		return nil
	})
}

// clusters are the scene's Cluster and its VSphereCluster.
func (s *scene) clusters() (*clusterv1.Cluster, *capvv1.VSphereCluster) {
	s.Helper()
	return s.clustersNamed(harness.DefaultCluster)
}

func (s *scene) clustersNamed(name string) (*clusterv1.Cluster, *capvv1.VSphereCluster) {
	s.Helper()
	cluster, infrastructure := &clusterv1.Cluster{}, &capvv1.VSphereCluster{}
	for _, object := range []client.Object{cluster, infrastructure} {
		object.SetNamespace(s.ns)
		object.SetName(name)
		s.get(object)
	}
	return cluster, infrastructure
}

// endpointHeld returns an error unless an address is protected for the VSphereCluster, and
// its claim is no request's any more.
func (s *scene) endpointHeld(ctx context.Context, by harness.Fixture, ip string) error {
	return s.endpointHeldBy(ctx, harness.DefaultCluster, by, ip)
}

func (s *scene) endpointHeldBy(ctx context.Context, name string, by harness.Fixture, ip string) error {
	claim := ipam.EmptyClaim(by.Provider)
	if err := s.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: name}, claim); err != nil {
		return err
	}
	address, err := s.addressObject(ctx, by, ip)
	if err != nil {
		return err
	}
	holder := ipam.Holder{Kind: ipam.OfCluster, Name: name}
	_, requested := claim.GetAnnotations()[ipam.RequestedByAnnotation]
	if !holder.Marks(claim) || requested || ipam.HolderOf(address) != holder || !ipam.IsProtected(address) {
		return fmt.Errorf("claim %v and address %v are not the endpoint's", claim.GetAnnotations(), address.GetAnnotations())
	}
	return nil
}

// addressObject is the object of an address of the scene.
func (s *scene) addressObject(ctx context.Context, by harness.Fixture, ip string) (client.Object, error) {
	addresses, err := harness.List(ctx, s.stack.Plane.Client, ipam.EmptyAddress(by.Provider), client.InNamespace(s.ns))
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		if by.Provider.ReadAddress(address).IP == ip {
			return address, nil
		}
	}
	return nil, fmt.Errorf("there is no address object of %s", ip)
}

// loopback is the endpoint at which somebody plays an API server: no other scene has it.
const loopback = "127.0.53.5"

func TestControlPlaneOnAnEndpointOfAPool(t *testing.T) {
	t.Parallel()
	by := harness.OfInCluster
	s := newEmptyScene(t, shared)
	port, err := shared.Plane.Port()
	if err != nil {
		t.Fatal(err)
	}
	s.startWorkloadAt(harness.DefaultCluster, loopback, port)
	s.create(by.Pool(s.ns, harness.WithPoolName("vips"), harness.WithRange(loopback, loopback), harness.WithPrefix(8), harness.WithGateway("")),
		s.pool(by, "control-plane", 10, 13))
	page, err := docs.Read(shared.Plane.Root(), "docs/endpoint.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := page.NodeFiles()
	if err != nil {
		t.Fatal(err)
	}
	template := s.template("control-plane", by.Ask("control-plane"))
	controlPlane := s.controlPlane(template, 3)
	s.set(controlPlane, nodeFiles(files), "spec", "kubeadmConfigSpec", "files")

	s.createAsking(by, "vips", int32(port), withControlPlane)
	s.create(template, controlPlane)

	if cluster, _ := s.clusters(); cluster.Spec.ControlPlaneEndpoint != (clusterv1.APIEndpoint{Host: loopback, Port: int32(port)}) {
		t.Fatalf("the Cluster has the endpoint %v", cluster.Spec.ControlPlaneEndpoint)
	}
	s.step("the Cluster has its endpoint")
	s.checkKubeconfig(net.JoinHostPort(loopback, strconv.Itoa(port)))
	seen := map[string]bool{}
	s.eventually(bootstrapped, "bootstrap data of a first machine and of one that joins", func(ctx context.Context) error {
		for _, userData := range s.bootstrapData(ctx) {
			for _, kind := range []string{"/run/kubeadm/kubeadm.yaml", "/run/kubeadm/kubeadm-join-config.yaml"} {
				if userData[kind] != "" && !seen[kind] {
					s.checkKubeVIP(userData, files["/etc/kube-vip/kube-vip.yaml"])
					seen[kind] = true
				}
			}
		}
		if len(seen) < 2 {
			return fmt.Errorf("there are %v", seen)
		}
		return nil
	})
	s.step("kube-vip has the endpoint on the first machine, and on one that joins")
}

// nodeFiles are files of nodes as a KubeadmConfig has them.
func nodeFiles(files map[string]string) []any {
	var list []any
	for path, content := range files {
		list = append(list, map[string]any{"path": path, "content": content, "permissions": "0700"})
	}
	return list
}

// checkKubeconfig waits until the Cluster's kubeconfig leads to its endpoint.
func (s *scene) checkKubeconfig(endpoint string) {
	s.Helper()
	s.eventually(provisioned, "the kubeconfig to lead to the endpoint", func(ctx context.Context) error {
		secret := &corev1.Secret{}
		if err := s.stack.Plane.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: harness.DefaultCluster + "-kubeconfig"}, secret); err != nil {
			return err
		}
		if !strings.Contains(string(secret.Data["value"]), "server: https://"+endpoint) {
			return errors.New("it does not")
		}
		return nil
	})
}

// bootstrapData are the files that cloud-init writes on each machine, by path.
func (s *scene) bootstrapData(ctx context.Context) []map[string]string {
	s.Helper()
	secrets := &corev1.SecretList{}
	if err := s.stack.Plane.Client.List(ctx, secrets, client.InNamespace(s.ns)); err != nil {
		s.Fatal(err)
	}
	var all []map[string]string
	for _, secret := range secrets.Items {
		if !strings.HasPrefix(string(secret.Data["value"]), "## template: jinja") && !strings.HasPrefix(string(secret.Data["value"]), "#cloud-config") {
			continue
		}
		userData := struct {
			Files []struct{ Path, Content string } `json:"write_files"`
		}{}
		if err := yaml.Unmarshal(secret.Data["value"], &userData); err != nil {
			s.Fatalf("reading Secret %s: %v", secret.Name, err)
		}
		files := map[string]string{}
		for _, file := range userData.Files {
			files[file.Path] = file.Content
		}
		all = append(all, files)
	}
	return all
}

// checkKubeVIP runs what a machine runs before kubeadm, on the files that it has.
func (s *scene) checkKubeVIP(files map[string]string, manifest string) {
	s.Helper()
	root := s.TempDir()
	if err := docs.RunOnNode(s.Context(), root, files, "/etc/pre-kubeadm-commands/40-kube-vip-address.sh"); err != nil {
		s.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "/etc/kubernetes/manifests/kube-vip.yaml"))
	if err != nil {
		s.Fatal(err)
	}
	if want := strings.ReplaceAll(manifest, "CONTROL_PLANE_ENDPOINT", loopback); string(got) != want {
		s.Errorf("kube-vip is\n%s\nwant\n%s", got, want)
	}
}

func TestDeletedClusterReturnsItsEndpointLast(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newEmptyScene(t, shared)
		s.create(s.pool(by, "vips", 5, 5), s.pool(by, "workers", 10, 11))
		s.createAsking(by, "vips", 6443)
		cluster, _ := s.clusters()
		s.initialized(cluster)
		template := s.template("workers", by.Ask("workers"))
		workers := s.workers(template, "md", 1)
		s.create(template, workers)
		s.nodes(workers)
		s.eventually(harness.Soon, "the endpoint to be held", func(ctx context.Context) error { return s.endpointHeld(ctx, by, s.address(5)) })

		s.delete(cluster)

		s.eventually(provisioned, "the endpoint to be given back", func(ctx context.Context) error {
			vms := &capvv1.VSphereVMList{}
			if err := s.stack.Plane.Client.List(ctx, vms, client.InNamespace(s.ns)); err != nil {
				return err
			}
			address, err := s.addressObject(ctx, by, s.address(5))
			if kept := err == nil && ipam.IsProtected(address); kept {
				return fmt.Errorf("it is held, and there are %d virtual machines", len(vms.Items))
			}
			if len(vms.Items) > 0 {
				t.Errorf("it is given back while there are %d virtual machines", len(vms.Items))
			}
			return nil
		})
		s.gone(cluster, provisioned)
		s.awaitFree()
	})
}

// initialized marks a Cluster without a control plane as one whose API server runs.
func (s *scene) initialized(cluster *clusterv1.Cluster) {
	s.Helper()
	if err := s.stack.Initialize(s.Context(), cluster); err != nil {
		s.Fatal(err)
	}
}

// CAPV says of a VSphereCluster without an endpoint that it is ready, and Cluster API waits.
func TestLateEndpointReachesItsCluster(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newEmptyScene(t, shared)
		s.create(s.pool(by, "vips", 5, 5))
		objects := s.asking(by, "vips", 6443)
		// The Cluster comes first, and is paused when its VSphereCluster comes.
		slices.Reverse(objects)
		for _, object := range objects {
			if cluster, ok := object.(*clusterv1.Cluster); ok {
				cluster.Spec.Paused = new(true)
			}
		}
		s.create(objects...)
		cluster, infrastructure := s.clusters()
		if host := infrastructure.Spec.ControlPlaneEndpoint.Host; host != "" {
			t.Errorf("it has the endpoint %s from the start", host)
		}

		patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = nil })

		s.hasEndpoint(harness.DefaultCluster)
		s.eventually(harness.Soon, "the endpoint to be held", func(ctx context.Context) error { return s.endpointHeld(ctx, by, s.address(5)) })
		s.delete(cluster)
		s.gone(cluster, provisioned)
		s.awaitFree()
	})
}

func TestMovedClusterKeepsItsEndpoint(t *testing.T) {
	t.Parallel()
	by := harness.OfInCluster
	s := newEmptyScene(t, secondStack(t))
	target := &scene{T: t, stack: shared, ns: s.ns, network: s.network, began: s.began}
	t.Cleanup(target.inspect)
	s.create(s.pool(by, "vips", 5, 5))
	s.createAsking(by, "vips", 6443)
	cluster, _ := s.clusters()
	s.initialized(cluster)
	s.eventually(harness.Soon, "the endpoint to be held", func(ctx context.Context) error { return s.endpointHeld(ctx, by, s.address(5)) })

	if output, err := s.moveTo(target.stack); err != nil {
		t.Fatalf("%v; it said:\n%s", err, output)
	}

	target.eventually(provisioned, "the endpoint to be held in the target", func(ctx context.Context) error { return target.endpointHeld(ctx, by, s.address(5)) })
	moved, infrastructure := target.clusters()
	if moved.Spec.ControlPlaneEndpoint.Host != s.address(5) || infrastructure.Spec.ControlPlaneEndpoint.Host != s.address(5) || moved.UID == cluster.UID {
		t.Errorf("the Cluster has the endpoint %v", moved.Spec.ControlPlaneEndpoint)
	}
	s.eventually(harness.Soon, "nothing of ours to be left", func(ctx context.Context) error {
		_, err := s.addressObject(ctx, by, s.address(5))
		if err == nil {
			return errors.New("the address is there still")
		}
		return nil
	})
	other := s.aloneAsking(by, "other")
	if err := target.stack.Plane.Client.Create(t.Context(), other); err == nil || !strings.Contains(err.Error(), "is exhausted") {
		t.Errorf("got %v, want a denial: the endpoint is in use", err)
	}
	target.delete(moved)
	target.gone(moved, provisioned)
	target.awaitFree()
}

// aloneAsking is a VSphereCluster without a Cluster that asks for an endpoint.
func (s *scene) aloneAsking(by harness.Fixture, name string) *unstructured.Unstructured {
	s.Helper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(capi.VSphereClusterKind.WithVersion("v1beta2"))
	object.SetNamespace(s.ns)
	object.SetName(name)
	s.set(object, "vcenter.example.com", "spec", "server")
	harness.WithAnnotation("pools.capv-static-ip.dev/control-plane-endpoint", by.Reference("vips").Kind+"/vips")(object)
	return object
}
