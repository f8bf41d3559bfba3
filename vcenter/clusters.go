package vcenter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/kube"
)

// namespaceOfCAPV is where CAPV keeps the Secrets of VSphereClusterIdentities, as clusterctl
// installs it.
const namespaceOfCAPV = "capv-system"

// identityKind is a login for the VSphereClusters of several namespaces.
var identityKind = schema.GroupKind{Group: capi.VSphereClusterKind.Group, Kind: "VSphereClusterIdentity"}

// Servers are the vCenters to ask, each once: the one of GOVC_URL, or else those of the
// VSphereClusters of a namespace, all if it is empty. Who logs in, and with what, is said by the
// environment, or else by the identity of the VSphereCluster, read with the rights of the client.
func Servers(ctx context.Context, c client.Client, namespace string, env Environment) ([]Server, error) {
	if named, is, err := env.named(); is || err != nil {
		return []Server{named}, err
	}
	clusters, err := kube.List(ctx, c, emptyOf(c, capi.VSphereClusterKind), client.InNamespace(namespace))
	if err != nil {
		return nil, fmt.Errorf("looking for the vCenters: listing VSphereClusters: %w; or name one by %s, %s and %s", err, envURL, envUsername, envPassword)
	}
	var servers []Server
	for _, object := range clusters {
		cluster := object.(*unstructured.Unstructured)
		text := textAt(cluster, "spec", "server")
		s, err := env.server(text)
		if err != nil {
			return nil, fmt.Errorf("spec.server of VSphereCluster %s: %w", client.ObjectKeyFromObject(cluster), err)
		}
		if slices.ContainsFunc(servers, func(other Server) bool { return other.url.Host == s.url.Host }) {
			continue
		}
		s.Thumbprint = textAt(cluster, "spec", "thumbprint")
		if err := env.logInFor(ctx, c, cluster, &s); err != nil {
			return nil, fmt.Errorf("finding who logs in to %s for VSphereCluster %s: %w; or set %s and %s",
				s, client.ObjectKeyFromObject(cluster), err, envUsername, envPassword)
		}
		servers = append(servers, s)
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("no VSphereCluster names a vCenter here: set %s, %s and %s", envURL, envUsername, envPassword)
	}
	return servers, nil
}

// logInFor has the environment say who logs in, or else the identity of a VSphereCluster.
func (e Environment) logInFor(ctx context.Context, c client.Client, cluster *unstructured.Unstructured, s *Server) error {
	if err := e.logIn(s); err != nil || s.Username != "" {
		return err
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: cluster.GetNamespace(), Name: textAt(cluster, "spec", "identityRef", "name")}
	switch kind := textAt(cluster, "spec", "identityRef", "kind"); kind {
	case "Secret":
	case identityKind.Kind:
		identity := emptyOf(c, identityKind)
		if err := c.Get(ctx, client.ObjectKey{Name: key.Name}, identity); err != nil {
			return fmt.Errorf("reading its %s: %w", kind, err)
		}
		key = client.ObjectKey{Namespace: namespaceOfCAPV, Name: textAt(identity, "spec", "secretName")}
	default:
		return errors.New("it has no identity of its own")
	}
	if err := c.Get(ctx, key, secret); err != nil {
		return fmt.Errorf("reading its Secret: %w", err)
	}
	s.Username, s.password = string(secret.Data["username"]), string(secret.Data["password"])
	if s.Username == "" {
		return fmt.Errorf("there is no username in Secret %s", key)
	}
	return nil
}

// emptyOf is an empty object of a kind of CAPV, in the version that is served.
func emptyOf(c client.Client, kind schema.GroupKind) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	version := capi.InScheme(c.Scheme(), capi.VSphereClusterKind).Version
	object.SetGroupVersionKind(kind.WithVersion(cmp.Or(version, "v1beta1")))
	return object
}

func textAt(object *unstructured.Unstructured, path ...string) string {
	text, _, _ := unstructured.NestedString(object.Object, path...)
	return text
}
