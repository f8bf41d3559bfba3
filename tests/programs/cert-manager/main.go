// Command cert-manager runs cert-manager's own controllers and its CA injector
// in one process. Their mains are modules that are not published, so this puts
// together the same parts, as far as certificates of SelfSigned and CA issuers
// need them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"         // registers the issuer
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned" // registers the issuer
	logf "github.com/cert-manager/cert-manager/pkg/logs"
)

// workers is what cert-manager has for each controller.
const workers = 5

// Failed requests are tried again as cert-manager does by default.
const (
	minimumBackoff = time.Hour
	maximumBackoff = 32 * time.Hour
)

var names = []string{
	issuers.ControllerName, clusterissuers.ControllerName,
	trigger.ControllerName, keymanager.ControllerName, requestmanager.ControllerName,
	issuing.ControllerName, readiness.ControllerName, revisionmanager.ControllerName,
	approver.ControllerName, selfsigned.CRControllerName, ca.CRControllerName,
}

func main() {
	// The default set has flags of the libraries, one of them --kubeconfig.
	flags := flag.NewFlagSet("cert-manager", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "path of the kubeconfig to act with")
	health := flags.String("health-addr", "127.0.0.1:0", "address to serve /readyz on")
	_ = flags.Parse(os.Args[1:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	log := klog.Background()
	ctrl.SetLogger(log)
	err := run(logf.NewContext(ctx, log), *kubeconfig, *health)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cert-manager:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, health string) error {
	var ready atomic.Bool
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveHealth(ctx, health, &ready) })
	group.Go(func() error { return inject(ctx, kubeconfig) })
	group.Go(func() error { return issue(ctx, group, kubeconfig, &ready) })
	return group.Wait()
}

// issue runs the controllers that issue and renew certificates.
func issue(ctx context.Context, group *errgroup.Group, kubeconfig string, ready *atomic.Bool) error {
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig:    kubeconfig,
		IssuerOptions: controller.IssuerOptions{ClusterResourceNamespace: "cert-manager"},
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: minimumBackoff,
			CertificateRequestMaximumBackoffDuration: maximumBackoff,
		},
	})
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	shared, err := factory.Build()
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	controllers := make([]controller.Interface, 0, len(names))
	for _, name := range names {
		construct, ok := controller.Known()[name]
		if !ok {
			return fmt.Errorf("constructing %s: no such controller", name)
		}
		constructed, err := construct(factory)
		if err != nil {
			return fmt.Errorf("constructing %s: %w", name, err)
		}
		controllers = append(controllers, constructed)
	}
	// An informer that a controller asked for after the start would never run.
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	for i, c := range controllers {
		group.Go(func() error {
			if err := c.Run(workers, ctx); err != nil {
				return fmt.Errorf("running %s: %w", names[i], err)
			}
			return nil
		})
	}
	shared.SharedInformerFactory.WaitForCacheSync(ctx.Done())
	shared.KubeSharedInformerFactory.WaitForCacheSync(ctx.Done())
	ready.Store(true)
	return nil
}

// serveHealth answers whether the controllers run.
func serveHealth(ctx context.Context, address string, ready *atomic.Bool) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "caches are not synced", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health: %w", err)
	}
	return nil
}
