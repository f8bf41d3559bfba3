// Command workload plays what kubeadm would start in the virtual machines of one
// Cluster: a Node in each and, where they are of the control plane, etcd and an
// API server. They live in the memory of this process; the bootstrap data is not
// looked at. It is CAPV's own vcsim provider, put together without what it does
// beside: that has a webhook server on a fixed port, and a vCenter of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	clusterv1beta1 "sigs.k8s.io/cluster-api/api/core/v1beta1" //nolint:staticcheck // the version that the provider reads
	inmemoryruntime "sigs.k8s.io/cluster-api/test/infrastructure/inmemory/pkg/runtime"
	inmemoryserver "sigs.k8s.io/cluster-api/test/infrastructure/inmemory/pkg/server"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	infrav1beta1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta1"
	"sigs.k8s.io/cluster-api-provider-vsphere/test/infrastructure/vcsim/controllers"
)

// workers is the number of virtual machines that are looked at at once.
const workers = 10

type options struct {
	kubeconfig, health, namespace, cluster, host string
	port, debugPort                              int
}

func main() {
	o := &options{}
	// The default set has flags of the libraries, one of them --kubeconfig.
	flags := flag.NewFlagSet("workload", flag.ExitOnError)
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig to act with")
	flags.StringVar(&o.health, "health-addr", "127.0.0.1:0", "address to serve /readyz on")
	flags.StringVar(&o.namespace, "namespace", "default", "namespace of the Cluster")
	flags.StringVar(&o.cluster, "cluster", "", "name of the Cluster")
	flags.StringVar(&o.host, "host", "127.0.0.1", "address of the Cluster's API server")
	flags.IntVar(&o.port, "port", 0, "port of the Cluster's API server")
	flags.IntVar(&o.debugPort, "debug-port", 0, "port to tell of all objects on")
	_ = flags.Parse(os.Args[1:]) // it exits
	ctrl.SetLogger(klog.Background())
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                 schemeOf(corev1.AddToScheme, clusterv1beta1.AddToScheme, infrav1beta1.AddToScheme),
		Cache:                  cache.Options{DefaultNamespaces: map[string]cache.Config{o.namespace: {}}},
		Client:                 client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Metrics:                server.Options{BindAddress: "0"},
		HealthProbeBindAddress: o.health,
	})
	if err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	memory, mux, err := o.workloadCluster(ctx)
	if err != nil {
		return fmt.Errorf("making the workload cluster: %w", err)
	}
	virtualMachines := &controllers.VSphereVMReconciler{Client: mgr.GetClient(), InMemoryManager: memory, APIServerMux: mux}
	if err := virtualMachines.SetupWithManager(ctx, mgr, controller.Options{MaxConcurrentReconciles: workers}); err != nil {
		return fmt.Errorf("adding the controller: %w", err)
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding the readiness check: %w", err)
	}
	return mgr.Start(ctx)
}

// workloadCluster is empty, and has no API server before a virtual machine has one.
func (o *options) workloadCluster(ctx context.Context) (inmemoryruntime.Manager, *inmemoryserver.WorkloadClustersMux, error) {
	memory := inmemoryruntime.NewManager(schemeOf(
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, infrav1beta1.AddToScheme,
		storagev1.AddToScheme, apiextensionsv1.AddToScheme, policyv1.AddToScheme,
	))
	if err := memory.Start(ctx); err != nil {
		return nil, nil, err
	}
	port := int32(o.port)
	mux, err := inmemoryserver.NewWorkloadClustersMux(memory, o.host,
		inmemoryserver.CustomPorts{MinPort: port, MaxPort: port, DebugPort: int32(o.debugPort)})
	if err != nil {
		return nil, nil, err
	}
	// The controller knows the cluster's objects by this name.
	name := klog.KRef(o.namespace, o.cluster).String()
	memory.AddResourceGroup(name)
	if _, err := mux.InitWorkloadClusterListenerWithPort(name, port); err != nil {
		return nil, nil, err
	}
	return memory, mux, mux.RegisterResourceGroup(name, name)
}

func schemeOf(adds ...func(*runtime.Scheme) error) *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range adds {
		utilruntime.Must(add(scheme))
	}
	return scheme
}
