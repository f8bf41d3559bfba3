package harness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// startEtcd starts etcd and returns its URL.
func (c *ControlPlane) startEtcd(ctx context.Context, path string) (string, error) {
	clientPort, err := c.ports.take()
	if err != nil {
		return "", err
	}
	peerPort, err := c.ports.take()
	if err != nil {
		return "", err
	}
	clients, peers := "http://"+loopback(clientPort), "http://"+loopback(peerPort)
	c.etcdURL = clients
	c.etcd = &Process{
		Name: "etcd",
		path: path,
		args: []string{
			"--data-dir=" + filepath.Join(c.Dir, "etcd"),
			"--listen-client-urls=" + clients,
			"--advertise-client-urls=" + clients,
			"--listen-peer-urls=" + peers,
			"--initial-advertise-peer-urls=" + peers,
			"--initial-cluster=default=" + peers,
			// Nothing here has to survive a power cut.
			"--unsafe-no-fsync",
		},
		ready: answers(http.DefaultTransport, clients+"/health"),
	}
	return clients, c.run(ctx, c.etcd)
}

func (c *ControlPlane) startAPIServer(ctx context.Context, path, etcd string) error {
	port, err := c.ports.take()
	if err != nil {
		return err
	}
	c.apiPort = port
	args, err := c.apiServerArgs(etcd)
	if err != nil {
		return err
	}
	transport, err := c.adminTransport()
	if err != nil {
		return err
	}
	c.apiServer = &Process{
		Name:  "kube-apiserver",
		path:  path,
		args:  args,
		ready: answers(transport, "https://"+loopback(port)+"/readyz"),
	}
	return c.run(ctx, c.apiServer)
}

func (c *ControlPlane) apiServerArgs(etcd string) ([]string, error) {
	serving, err := c.authority.server()
	if err != nil {
		return nil, err
	}
	certPath, keyPath, err := serving.write(c.Dir, "apiserver")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.caPath(), c.authority.bundle, 0o600); err != nil {
		return nil, fmt.Errorf("writing the control plane's authority: %w", err)
	}
	if err := writeSigningKey(c.signingKeyPath()); err != nil {
		return nil, err
	}
	args := []string{
		"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(c.apiPort),
		"--tls-cert-file=" + certPath,
		"--tls-private-key-file=" + keyPath,
		"--client-ca-file=" + c.caPath(),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.signingKeyPath(),
		"--service-account-signing-key-file=" + c.signingKeyPath(),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--authorization-mode=RBAC",
		// No controller here makes the default ServiceAccounts it asks for.
		"--disable-admission-plugins=ServiceAccount",
		// Without a limit it waits a minute for open watches before it stops.
		"--shutdown-watch-termination-grace-period=1s",
	}
	if plugins := c.options.AdmissionPlugins; len(plugins) > 0 {
		args = append(args, "--enable-admission-plugins="+strings.Join(plugins, ","))
	}
	if c.options.AuditLog {
		audit, err := c.auditArgs()
		if err != nil {
			return nil, err
		}
		args = append(args, audit...)
	}
	shown, err := c.webhookClientArgs()
	if err != nil {
		return nil, err
	}
	return slices.Concat(args, shown, c.options.APIServerArgs), nil
}

func (c *ControlPlane) caPath() string         { return filepath.Join(c.Dir, "ca.crt") }
func (c *ControlPlane) signingKeyPath() string { return filepath.Join(c.Dir, "service-accounts.key") }

// writeSigningKey makes the key that signs ServiceAccount tokens.
func writeSigningKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the key for ServiceAccount tokens: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("making the key for ServiceAccount tokens: %w", err)
	}
	if err := os.WriteFile(path, encode("EC PRIVATE KEY", der), 0o600); err != nil {
		return fmt.Errorf("writing the key for ServiceAccount tokens: %w", err)
	}
	return nil
}

// startControllerManager starts the two controllers that deletion depends on,
// and the one that puts together the rights of CAPI's managers.
func (c *ControlPlane) startControllerManager(ctx context.Context, path string) error {
	port, err := c.ports.take()
	if err != nil {
		return err
	}
	serving, err := c.authority.server()
	if err != nil {
		return err
	}
	certPath, keyPath, err := serving.write(c.Dir, "controller-manager")
	if err != nil {
		return err
	}
	identity := Credentials{Kubeconfig: c.Kubeconfig}
	if c.options.ControllerAccounts {
		if identity, err = c.Credentials("system:kube-controller-manager"); err != nil {
			return err
		}
	}
	c.controllerManager = &Process{
		Name: "kube-controller-manager",
		path: path,
		args: []string{
			"--controllers=clusterrole-aggregation-controller,garbage-collector-controller,namespace-controller",
			"--leader-elect=false",
			"--use-service-account-credentials=" + strconv.FormatBool(c.options.ControllerAccounts),
			"--kubeconfig=" + identity.Kubeconfig,
			"--service-account-private-key-file=" + c.signingKeyPath(),
			"--bind-address=127.0.0.1",
			"--secure-port=" + strconv.Itoa(port),
			"--tls-cert-file=" + certPath,
			"--tls-private-key-file=" + keyPath,
			"--kube-api-qps=500",
			"--kube-api-burst=1000",
		},
		ready: answers(&http.Transport{TLSClientConfig: c.authority.tlsConfig()}, "https://"+loopback(port)+"/healthz"),
	}
	return c.run(ctx, c.controllerManager)
}

// adminTransport reaches this control plane's API server and no other: it
// trusts nothing but this control plane's authority.
func (c *ControlPlane) adminTransport() (http.RoundTripper, error) {
	pair, err := c.authority.client(AdminUser, adminGroup)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.cert, pair.key)
	if err != nil {
		return nil, fmt.Errorf("loading the administrator's certificate: %w", err)
	}
	config := c.authority.tlsConfig()
	config.Certificates = []tls.Certificate{cert}
	return &http.Transport{TLSClientConfig: config}, nil
}

// answers returns a check that a URL answers with 200.
func answers(transport http.RoundTripper, url string) func(context.Context) error {
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s: %s", url, response.Status, strings.TrimSpace(string(body)))
		}
		return nil
	}
}
