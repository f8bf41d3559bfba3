// Package programs builds the foreign programs that the project is developed
// and tested with: the Kubernetes control plane, the IPAM provider, and the
// development tools.
//
// Each family has a module file of its own in a folder beside this file, so
// that its versions never mix with the project's. Binaries are kept in the
// user's cache folder, named by a hash of what they are built from, and built
// again only when that changes.
package programs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrUnknown says that a program of that name is not among those we can build.
var ErrUnknown = errors.New("unknown program")

// program says how one foreign program is built.
type program struct {
	// name is the file name of the binary.
	name string
	// family is the folder, beside this file, whose module file pins the versions.
	family string
	// pkg is the import path of the program's main package.
	pkg string
	// module is the module whose version is also the program's version.
	module string
	// version is written into the binary where the program would otherwise not
	// know its own version.
	version string
	// tags are build tags that leave out what is not needed here.
	tags string
}

// Families of programs that share a module file.
const (
	kubernetes = "kubernetes"
	clusterAPI = "cluster-api"
	tools      = "tools"
	prometheus = "prometheus"
)

// ownMain is the package of a program whose main is ours, in the folder of its
// module file: its authors publish none.
const ownMain = "."

// kubernetesVersion has to follow the requirement in kubernetes/go.mod: built
// from a module, the programs know no version, and clients ask for one.
const kubernetesVersion = "v1.36.3"

var known = []program{
	{name: "etcd", family: kubernetes, pkg: "go.etcd.io/etcd/server/v3", module: "go.etcd.io/etcd/server/v3", version: kubernetesVersion},
	{name: "kube-apiserver", family: kubernetes, pkg: "k8s.io/kubernetes/cmd/kube-apiserver", module: "k8s.io/kubernetes", version: kubernetesVersion},
	{name: "kube-controller-manager", family: kubernetes, pkg: "k8s.io/kubernetes/cmd/kube-controller-manager", module: "k8s.io/kubernetes", version: kubernetesVersion},
	{name: "kubectl", family: kubernetes, pkg: "k8s.io/kubernetes/cmd/kubectl", module: "k8s.io/kubernetes", version: kubernetesVersion},
	{name: "metal3-ipam", family: "metal3-ipam", pkg: "github.com/metal3-io/ip-address-manager", module: "github.com/metal3-io/ip-address-manager"},
	{name: "cluster-api", family: clusterAPI, pkg: "sigs.k8s.io/cluster-api", module: "sigs.k8s.io/cluster-api"},
	{name: "kubeadm-bootstrap", family: clusterAPI, pkg: "sigs.k8s.io/cluster-api/bootstrap/kubeadm", module: "sigs.k8s.io/cluster-api"},
	{name: "kubeadm-control-plane", family: clusterAPI, pkg: "sigs.k8s.io/cluster-api/controlplane/kubeadm", module: "sigs.k8s.io/cluster-api"},
	{name: "clusterctl", family: clusterAPI, pkg: "sigs.k8s.io/cluster-api/cmd/clusterctl", module: "sigs.k8s.io/cluster-api"},
	{name: "cluster-api-operator", family: "cluster-api-operator", pkg: "sigs.k8s.io/cluster-api-operator/cmd", module: "sigs.k8s.io/cluster-api-operator"},
	{name: "capv", family: "capv", pkg: "sigs.k8s.io/cluster-api-provider-vsphere", module: "sigs.k8s.io/cluster-api-provider-vsphere"},
	{name: "in-cluster-ipam", family: "in-cluster-ipam", pkg: "sigs.k8s.io/cluster-api-ipam-provider-in-cluster", module: "sigs.k8s.io/cluster-api-ipam-provider-in-cluster"},
	{name: "cert-manager", family: "cert-manager", pkg: ownMain, module: "github.com/cert-manager/cert-manager"},
	{name: "vcenter", family: "vcenter", pkg: ownMain, module: "github.com/vmware/govmomi"},
	{name: "workload", family: "workload", pkg: ownMain, module: "sigs.k8s.io/cluster-api-provider-vsphere/test"},
	{name: "helm", family: "helm", pkg: "helm.sh/helm/v4/cmd/helm", module: "helm.sh/helm/v4"},
	{name: "registry", family: "registry", pkg: "github.com/google/go-containerregistry/cmd/registry", module: "github.com/google/go-containerregistry"},
	{name: "cyclonedx-gomod", family: "cyclonedx-gomod", pkg: "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod", module: "github.com/CycloneDX/cyclonedx-gomod"},
	{name: "promtool", family: prometheus, pkg: "github.com/prometheus/prometheus/cmd/promtool", module: "github.com/prometheus/prometheus", tags: "remove_all_sd"},
	{name: "promql-selectors", family: prometheus, pkg: ownMain, module: "github.com/prometheus/prometheus"},
	{name: "monitoring-objects", family: "prometheus-operator", pkg: ownMain, module: "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring"},
	{name: "golangci-lint", family: tools, pkg: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint", module: "github.com/golangci/golangci-lint/v2"},
	{name: "gotestsum", family: tools, pkg: "gotest.tools/gotestsum", module: "gotest.tools/gotestsum"},
	{name: "controller-gen", family: tools, pkg: "sigs.k8s.io/controller-tools/cmd/controller-gen", module: "sigs.k8s.io/controller-tools"},
	{name: "kustomize", family: tools, pkg: "sigs.k8s.io/kustomize/kustomize/v5", module: "sigs.k8s.io/kustomize/kustomize/v5"},
}

// Names lists the programs that can be built.
func Names() []string {
	names := make([]string, 0, len(known))
	for _, p := range known {
		names = append(names, p.name)
	}
	return names
}

// Builder builds programs from the project's module files and remembers where
// they are. It may be used by several processes at once.
type Builder struct {
	// Root is the project's folder, the one with its go.mod.
	Root string
	// Cache is the folder that holds the binaries.
	Cache string
	// Progress receives a line for each step that takes long.
	Progress io.Writer
}

// NewBuilder returns a Builder for the project that the current folder is a
// part of, with its cache in the user's cache folder.
func NewBuilder(progress io.Writer) (*Builder, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("finding the user's cache folder: %w", err)
	}
	return &Builder{Root: root, Cache: filepath.Join(cache, "capv-static-ip"), Progress: progress}, nil
}

// findRoot walks up to the folder of the project's go.mod: tests run in the
// folder of their package.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the project's folder: %w", err)
	}
	for {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), "module capv-static-ip.dev\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the project's folder: no go.mod of module capv-static-ip.dev here or above")
		}
		dir = parent
	}
}

// Path returns the path of the named program's binary, and builds it first if
// the cache does not have it.
func (b *Builder) Path(ctx context.Context, name string) (string, error) {
	i := slices.IndexFunc(known, func(p program) bool { return p.name == name })
	if i < 0 {
		return "", fmt.Errorf("%w %q: have %s", ErrUnknown, name, strings.Join(Names(), ", "))
	}
	p := known[i]
	if path, ok := asset(p); ok {
		return path, nil
	}
	key, err := b.key(p)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.Cache, name+"-"+key, name)
	if exists(path) {
		return path, nil
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	// Somebody else may have built it while we waited for the lock.
	if exists(path) {
		return path, nil
	}
	return path, b.build(ctx, p, path)
}

// asset looks a part of the control plane up in the folder that people who
// develop controllers have for such binaries.
func asset(p program) (string, bool) {
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	if dir == "" || p.family != kubernetes {
		return "", false
	}
	path := filepath.Join(dir, p.name)
	return path, exists(path)
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// key names what a binary is built from.
func (b *Builder) key(p program) (string, error) {
	files := []string{filepath.Join(b.family(p), "go.mod"), filepath.Join(b.family(p), "go.sum")}
	if p.pkg == ownMain {
		sources, err := filepath.Glob(filepath.Join(b.family(p), "*.go"))
		if err != nil {
			return "", fmt.Errorf("listing the sources of %s: %w", p.name, err)
		}
		files = append(files, sources...)
	}
	hash := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("reading what %s is built from: %w", p.name, err)
		}
		hash.Write(content)
	}
	fmt.Fprintln(hash, p.pkg, p.flags())
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

func (b *Builder) family(p program) string {
	return filepath.Join(b.Root, "tests", "programs", p.family)
}

func (p program) flags() []string {
	ldflags := "-s -w"
	if p.version != "" {
		ldflags += " -X k8s.io/component-base/version.gitVersion=" + p.version
	}
	flags := []string{"-trimpath", "-ldflags", ldflags}
	if p.tags != "" {
		flags = append(flags, "-tags", p.tags)
	}
	return flags
}

func (b *Builder) build(ctx context.Context, p program, path string) error {
	version, err := b.goOutput(ctx, b.family(p), "list", "-m", "-f", "{{.Version}}", p.module)
	if err != nil {
		return err
	}
	title := p.name + " " + version
	done := b.step("building " + title)
	if err := b.compile(ctx, b.family(p), path, append(p.flags(), p.pkg)); err != nil {
		return fmt.Errorf("building %s: %w", title, err)
	}
	done()
	return nil
}

// compile builds beside the final place and renames, so that a binary that is
// there is always whole.
func (b *Builder) compile(ctx context.Context, dir, path string, args []string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(temporary)
	if _, err := b.goOutput(ctx, dir, append([]string{"build", "-o", temporary}, args...)...); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// step announces a step that takes long, and returns what announces its end.
func (b *Builder) step(title string) func() {
	start := time.Now()
	fmt.Fprintln(b.Progress, title, "...")
	return func() {
		fmt.Fprintf(b.Progress, "%s: done in %s\n", title, time.Since(start).Round(100*time.Millisecond))
	}
}
