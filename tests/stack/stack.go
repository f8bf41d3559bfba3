package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/programs"
)

// defaultReplicas is what deploy/ asks for.
const defaultReplicas = 2

// Options says how a stack differs from the usual one.
type Options struct {
	// VCenter is one that runs already, of another stack; one is started if nil.
	VCenter *VCenter

	// WithoutManager leaves capv-static-ip out, until Install.
	WithoutManager bool
	// Replicas is how many replicas of capv-static-ip run; 2 if 0.
	Replicas int
	// Manager says how each of them runs.
	Manager harness.ManagerOptions
	// Protected applies deploy/protection, too.
	Protected bool
	// Renewal says when the serving certificate is renewed, if not when certs/ says.
	Renewal harness.Renewal

	// WithoutKubeadm leaves the kubeadm providers out: workers need neither, if
	// their bootstrap data is given.
	WithoutKubeadm bool
	// WithoutMetal3 leaves the metal3 IP Address Manager out, but not its API.
	WithoutMetal3 bool
	// WithoutInCluster leaves the in-cluster IPAM provider out, but not its API.
	WithoutInCluster bool
	// Metal3 says how metal3 runs.
	Metal3 harness.Metal3Options

	// WithoutNodes keeps machines from ever becoming Nodes, and so available.
	WithoutNodes bool

	// WithoutRateLimiting switches the feature ReconcilerRateLimiting of Cluster
	// API and CAPV off, which lets each object be looked at once a second only.
	WithoutRateLimiting bool
	// FeatureGates are further ones for the managers of Cluster API, as in
	// "ClusterTopology=true".
	FeatureGates []string

	// Plane says how the control plane differs from the usual one.
	Plane harness.Options
	// Progress receives a line for each part that has started; os.Stderr if nil.
	Progress io.Writer
}

// Stack is a management cluster that runs. Its parts may be stopped and started
// again one by one; those that were left out are nil.
type Stack struct {
	// Plane is the control plane, with a client that has all rights.
	Plane *harness.ControlPlane
	// VCenter is where the virtual machines are.
	VCenter *VCenter
	// CertManager is cert-manager with its CA injector.
	CertManager *harness.Process
	// ClusterAPI is the core manager.
	ClusterAPI *harness.Provider
	// KubeadmBootstrap and KubeadmControlPlane are Cluster API's other managers.
	KubeadmBootstrap, KubeadmControlPlane *harness.Provider
	// CAPV is the infrastructure provider.
	CAPV *harness.Provider
	// Metal3 and InCluster are the IPAM providers.
	Metal3    *harness.Metal3
	InCluster *harness.InCluster
	// Installation is what deploy/ brought.
	Installation *harness.Installation
	// Managers are the replicas of capv-static-ip. Each may be killed, and
	// started again at the same addresses.
	Managers []*harness.Manager

	options Options
	// cancel ends what runs in this process.
	cancel context.CancelFunc
	mu     sync.Mutex
}

// Start starts a management cluster. It is stopped by Stop, and when ctx ends.
func Start(ctx context.Context, options Options) (*Stack, error) {
	if options.Progress == nil {
		options.Progress = os.Stderr
	}
	options.Progress = &lines{to: options.Progress}
	s := &Stack{options: options, VCenter: options.VCenter, cancel: func() {}}
	if err := build(ctx, options); err != nil {
		return nil, fmt.Errorf("building the stack: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("starting the stack: %w", errors.Join(err, s.Stop()))
	}
	if !options.WithoutNodes {
		ctx, s.cancel = context.WithCancel(ctx)
		go s.joinNodes(ctx)
	}
	return s, nil
}

// build builds what is not in the cache, one after the other: a compiler uses
// the whole machine.
func build(ctx context.Context, options Options) error {
	builder, err := programs.NewBuilder(options.Progress)
	if err != nil {
		return err
	}
	names := []string{
		"kustomize", "etcd", "kube-apiserver", "kube-controller-manager", "cert-manager", "vcenter",
		harness.ClusterAPI, harness.CAPV,
	}
	if !options.WithoutKubeadm {
		names = append(names, harness.KubeadmBootstrap, harness.KubeadmControlPlane, "workload")
	}
	if !options.WithoutMetal3 {
		names = append(names, "metal3-ipam")
	}
	if !options.WithoutInCluster {
		names = append(names, "in-cluster-ipam")
	}
	for _, name := range names {
		if _, err := builder.Path(ctx, name); err != nil {
			return err
		}
	}
	if options.WithoutManager {
		return nil
	}
	_, err = builder.Manager(ctx)
	return err
}

func (s *Stack) start(ctx context.Context) error {
	err := s.part("control plane: etcd, kube-apiserver, kube-controller-manager, all APIs", func() (err error) {
		options := s.options.Plane
		options.WholeStack, options.Progress = true, s.options.Progress
		s.Plane, err = harness.Start(ctx, options)
		return err
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.startVSphere(ctx) })
	group.Go(func() error { return s.startClusterAPI(ctx) })
	group.Go(func() error { return s.startKubeadm(ctx) })
	group.Go(func() error { return s.startIPAM(ctx) })
	group.Go(func() error { return s.startOurs(ctx) })
	group.Go(func() error { return s.recordProviders(ctx) })
	return group.Wait()
}

func (s *Stack) startVSphere(ctx context.Context) error {
	if s.VCenter == nil {
		err := s.part("vCenter, simulated", func() (err error) {
			s.VCenter, err = startVCenter(ctx, s.Plane)
			return err
		})
		if err != nil {
			return err
		}
	}
	return s.part("CAPV", func() (err error) {
		s.CAPV, err = startCAPV(ctx, s.Plane, s.VCenter, s.featureGates()...)
		return err
	})
}

func (s *Stack) startClusterAPI(ctx context.Context) error {
	return s.part("Cluster API", func() (err error) {
		s.ClusterAPI, err = s.Plane.StartProvider(ctx, harness.ClusterAPI, s.featureGates(s.options.FeatureGates...)...)
		return err
	})
}

func (s *Stack) startKubeadm(ctx context.Context) error {
	if s.options.WithoutKubeadm {
		return nil
	}
	return s.part("Cluster API's kubeadm providers", func() (err error) {
		gates := s.featureGates(s.options.FeatureGates...)
		if s.KubeadmBootstrap, err = s.Plane.StartProvider(ctx, harness.KubeadmBootstrap, gates...); err != nil {
			return err
		}
		s.KubeadmControlPlane, err = s.Plane.StartProvider(ctx, harness.KubeadmControlPlane, gates...)
		return err
	})
}

func (s *Stack) startIPAM(ctx context.Context) error {
	if !s.options.WithoutMetal3 {
		err := s.part("metal3 IP Address Manager", func() (err error) {
			s.Metal3, err = s.Plane.StartMetal3(ctx, s.options.Metal3)
			return err
		})
		if err != nil {
			return err
		}
	}
	if s.options.WithoutInCluster {
		return nil
	}
	return s.part("in-cluster IPAM provider", func() (err error) {
		s.InCluster, err = s.Plane.StartInCluster(ctx)
		return err
	})
}

func (s *Stack) startOurs(ctx context.Context) error {
	err := s.part("cert-manager", func() (err error) {
		s.CertManager, err = startCertManager(ctx, s.Plane)
		return err
	})
	if err != nil || s.options.WithoutManager {
		return err
	}
	return s.Install(ctx)
}

// Install installs capv-static-ip, on a stack that was started without it.
func (s *Stack) Install(ctx context.Context) error {
	return s.part("capv-static-ip, as deploy/ installs it", func() (err error) {
		if s.Installation, err = s.Plane.InstallIssued(ctx, s.options.Renewal); err != nil {
			return err
		}
		if s.options.Protected {
			if err := s.Plane.ApplyFolder(ctx, "deploy", "protection"); err != nil {
				return err
			}
		}
		replicas := s.options.Replicas
		if replicas == 0 {
			replicas = defaultReplicas
		}
		for range replicas {
			if _, err := s.StartManager(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// StartManager starts one more replica of capv-static-ip.
func (s *Stack) StartManager(ctx context.Context) (*harness.Manager, error) {
	manager, err := s.Installation.StartManager(ctx, s.options.Manager)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Managers = append(s.Managers, manager)
	return manager, nil
}

// featureGates is the flag that switches features.
func (s *Stack) featureGates(gates ...string) []string {
	flag := ""
	if s.options.WithoutRateLimiting {
		gates = append([]string{"ReconcilerRateLimiting=false"}, gates...)
	}
	for i, gate := range gates {
		if i > 0 {
			flag += ","
		}
		flag += gate
	}
	if flag == "" {
		return nil
	}
	return []string{"--feature-gates=" + flag}
}

// Stop ends everything that was started.
func (s *Stack) Stop() error {
	s.cancel()
	if s.Plane == nil {
		return nil
	}
	return s.Plane.Stop()
}

// part starts a part and says how long it took.
func (s *Stack) part(title string, start func() error) error {
	began := time.Now()
	if err := start(); err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	fmt.Fprintf(s.options.Progress, "%s: %s\n", title, time.Since(began).Round(100*time.Millisecond))
	return nil
}

// lines keeps the lines of parts that start at the same time apart.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) Write(content []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(content)
}
