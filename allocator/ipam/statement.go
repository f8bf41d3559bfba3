package ipam

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Annotations by which a pool says what it is for. They hold for whoever asks for
// the pool, in whatever way. A pool that says nothing is for all.
const (
	// NetworksAnnotation lists the vSphere networks that a pool serves.
	NetworksAnnotation = "capv-static-ip.dev/networks"
	// FailureDomainsAnnotation lists the failure domains that a pool serves, by the
	// names that a Machine's spec.failureDomain has.
	FailureDomainsAnnotation = "capv-static-ip.dev/failure-domains"
	// UsedByAnnotation lists who may claim from a pool: NAMESPACE or
	// NAMESPACE/CLUSTER, with a final * for all that begin so.
	UsedByAnnotation = "capv-static-ip.dev/used-by"
	// GatewayAnnotation with the value NoGateway keeps a pool's gateway from being
	// injected.
	GatewayAnnotation = "capv-static-ip.dev/gateway"

	// NoGateway is the only value of GatewayAnnotation, and of the annotation of a
	// device, see GatewayAnnotationPrefix.
	NoGateway = "none"
)

// Statements are the annotations by which a pool says what it is for, and how it is used.
func Statements() []string {
	return []string{NetworksAnnotation, FailureDomainsAnnotation, UsedByAnnotation, GatewayAnnotation, ReuseAfterAnnotation, FrozenAnnotation}
}

// CheckStatement refuses a pool that, by its annotations, is not for the device or
// for the machine, or whose annotations cannot be read. It returns ErrUndecided if that
// depends on which of its failure domains the machine gets.
func CheckStatement(pool Pool, machine Machine, want Want) error {
	if text, says := pool.GetAnnotations()[GatewayAnnotation]; says && text != NoGateway {
		return Refuse(PoolInvalid, "%s has an invalid annotation %s: %q; it can only be %q: correct the pool",
			pool.Reference.In(pool.GetNamespace()), GatewayAnnotation, text, NoGateway)
	}
	if err := checkReuseAfter(pool); err != nil {
		return err
	}
	// An endpoint is on no network, and in no failure domain, that is known.
	if err := checkSites(pool, want); err != nil && !want.Endpoint {
		return err
	}
	allowed, err := isUsedBy(pool, machine)
	switch {
	case err != nil:
		return err
	case !allowed:
		return Refuse(PoolNotAllowed, "%s is not for %s: ask its owner to add it to annotation %s, or name another pool in %s",
			pool.Reference.In(pool.GetNamespace()), describe(machine), UsedByAnnotation, want.AskedBy)
	}
	return nil
}

// describe names a machine's namespace, and its Cluster where it has one.
func describe(machine Machine) string {
	if machine.Cluster == "" {
		return fmt.Sprintf("namespace %q", machine.Namespace)
	}
	return fmt.Sprintf("Cluster %q of namespace %q", machine.Cluster, machine.Namespace)
}

// checkSites refuses a pool that is for none of the places where the device may be.
func checkSites(pool Pool, want Want) error {
	var refusals []error
	sites := want.sites()
	for _, site := range sites {
		if err := checkSite(pool, want, site); err != nil {
			refusals = append(refusals, err)
		}
	}
	switch len(refusals) {
	case 0:
		return nil
	case len(sites):
		return refusals[0]
	}
	return ErrUndecided
}

// checkSite refuses a pool that is for other networks, or for other failure domains.
func checkSite(pool Pool, want Want, site Site) error {
	name := pool.Reference.In(pool.GetNamespace())
	if text, says := pool.GetAnnotations()[NetworksAnnotation]; says {
		stated := SplitList(text)
		if !slices.ContainsFunc(stated, func(network string) bool { return isOn(site.Network, network) }) {
			return Refuse(PoolNotForNetwork, "%s is for networks %s only, and device %d is on %q: name another pool in %s, or correct annotation %s of the pool",
				name, quoted(stated), want.Device.Index, site.Network, want.AskedBy, NetworksAnnotation)
		}
	}
	if text, says := pool.GetAnnotations()[FailureDomainsAnnotation]; says {
		stated := SplitList(text)
		if site.FailureDomain == "" || !slices.Contains(stated, site.FailureDomain) {
			return Refuse(PoolNotForFailureDomain, "%s is for failure domains %s only, and %s: name another pool in %s, or correct annotation %s of the pool",
				name, quoted(stated), want.describeDomains(), want.AskedBy, FailureDomainsAnnotation)
		}
	}
	return nil
}

func quoted(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = fmt.Sprintf("%q", text)
	}
	return strings.Join(quoted, ", ")
}

// isOn tells whether two names are of one network. A network may be named by its
// inventory path or by the last element of that; of two paths all must be equal.
func isOn(network, stated string) bool {
	if network == stated {
		return true
	}
	if strings.Contains(network, "/") && strings.Contains(stated, "/") {
		return false
	}
	return network != "" && path.Base(network) == path.Base(stated)
}

// usedByPattern is one entry of UsedByAnnotation.
var usedByPattern = regexp.MustCompile(`^[-a-z0-9]*\*?(/[-a-z0-9.]*\*?)?$`)

// isUsedBy tells whether machines of this namespace and Cluster may claim from a
// pool. It returns a Refusal if the pool does not say so legibly.
func isUsedBy(pool Pool, machine Machine) (bool, error) {
	text, limited := pool.GetAnnotations()[UsedByAnnotation]
	if !limited {
		return true, nil
	}
	allowed := false
	for _, entry := range SplitList(text) {
		if !usedByPattern.MatchString(entry) || strings.HasPrefix(entry, "/") || strings.HasSuffix(entry, "/") {
			return false, Refuse(PoolInvalid, "%s has an invalid annotation %s: %q is neither NAMESPACE nor NAMESPACE/CLUSTER; correct the pool",
				pool.Reference.In(pool.GetNamespace()), UsedByAnnotation, entry)
		}
		namespace, cluster, ofCluster := strings.Cut(entry, "/")
		if matches(namespace, machine.Namespace) && (!ofCluster || machine.Cluster != "" && matches(cluster, machine.Cluster)) {
			allowed = true
		}
	}
	return allowed, nil
}

// IsOpenedTo tells whether a pool says that machines of this namespace and Cluster may
// claim from it. One that says nothing is open to all, and opened to none.
func IsOpenedTo(pool Pool, machine Machine) bool {
	_, limited := pool.GetAnnotations()[UsedByAnnotation]
	allowed, err := isUsedBy(pool, machine)
	return limited && allowed && err == nil
}

// matches tells whether a name is the pattern's, whose final * stands for any rest.
func matches(pattern, name string) bool {
	if prefix, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// SaysNoGateway tells whether the gateway of a pool is not to be injected.
func SaysNoGateway(pool client.Object) bool {
	return pool.GetAnnotations()[GatewayAnnotation] == NoGateway
}

// StatesTheSame tells whether two versions of a pool say the same of what they are for, and
// can be asked for by the same labels.
func StatesTheSame(a, b client.Object) bool {
	if LabelsOf(a) != LabelsOf(b) {
		return false
	}
	for _, key := range Statements() {
		before, had := a.GetAnnotations()[key]
		after, has := b.GetAnnotations()[key]
		if had != has || before != after {
			return false
		}
	}
	return true
}
