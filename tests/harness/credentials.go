package harness

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	coordinationv1 "k8s.io/api/coordination/v1"
	eventsv1 "k8s.io/api/events/v1"
	capvv1beta1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
)

const (
	// AdminUser is whom the API server knows the tests as.
	AdminUser  = "harness"
	adminGroup = "system:masters"
)

// Scheme holds every type that a test, the demo or the benchmark deals with.
var Scheme = newScheme()

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, admissionv1.AddToScheme, coordinationv1.AddToScheme,
		eventsv1.AddToScheme, apiextensionsv1.AddToScheme, clusterv1.AddToScheme,
		capvv1beta1.AddToScheme, capvv1.AddToScheme, ipamv1.AddToScheme, capiipamv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return scheme
}

// Credentials let a program or a client act as some user.
type Credentials struct {
	// User is the name that the API server knows the user by.
	User string
	// Config acts as the user, without a client-side throttle. Where only v1beta1
	// of an API is served, it lets clients use v1beta2; Kubeconfig does not.
	Config *rest.Config
	// Kubeconfig is the path of a file for Config.
	Kubeconfig string
}

// Credentials makes credentials for a user who is in the given groups.
func (c *ControlPlane) Credentials(user string, groups ...string) (Credentials, error) {
	pair, err := c.authority.client(user, groups...)
	if err != nil {
		return Credentials{}, err
	}
	config := &rest.Config{
		Host: "https://" + loopback(c.apiPort),
		TLSClientConfig: rest.TLSClientConfig{
			CAData: c.authority.bundle, CertData: pair.cert, KeyData: pair.key,
		},
		// Throttling in the client would be measured as slowness of the server.
		QPS: -1,
	}
	path := filepath.Join(c.Dir, url.PathEscape(user)+".kubeconfig")
	if err := clientcmd.WriteToFile(kubeconfig(user, config), path); err != nil {
		return Credentials{}, fmt.Errorf("writing a kubeconfig for %s: %w", user, err)
	}
	c.translate(config)
	return Credentials{User: user, Config: config, Kubeconfig: path}, nil
}

// through writes a kubeconfig by which the user reaches the API server through a
// forwarder, and returns its path.
func (c Credentials) through(f *Forwarder) (string, error) {
	config := rest.CopyConfig(c.Config)
	config.Host = "https://" + f.Address()
	path := fmt.Sprintf("%s-%d", c.Kubeconfig, f.listener.Addr().(*net.TCPAddr).Port)
	if err := clientcmd.WriteToFile(kubeconfig(c.User, config), path); err != nil {
		return "", fmt.Errorf("writing a kubeconfig for %s: %w", c.User, err)
	}
	return path, nil
}

// ServiceAccount makes credentials with exactly the identity that a pod of that
// ServiceAccount has.
func (c *ControlPlane) ServiceAccount(namespace, name string) (Credentials, error) {
	return c.Credentials("system:serviceaccount:"+namespace+":"+name,
		"system:serviceaccounts", "system:serviceaccounts:"+namespace, "system:authenticated")
}

func kubeconfig(user string, config *rest.Config) clientcmdapi.Config {
	const name = "capv-static-ip"
	return clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{
			name: {Server: config.Host, CertificateAuthorityData: config.CAData},
		},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{
			user: {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData},
		},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: user}},
		CurrentContext: name,
	}
}

// connect makes the administrator's clients.
func (c *ControlPlane) connect() error {
	admin, err := c.Credentials(AdminUser, adminGroup)
	if err != nil {
		return err
	}
	c.Config, c.Kubeconfig = admin.Config, admin.Kubeconfig
	c.Client, err = client.NewWithWatch(c.Config, client.Options{Scheme: Scheme})
	if err != nil {
		return fmt.Errorf("making the administrator's client: %w", err)
	}
	return nil
}
