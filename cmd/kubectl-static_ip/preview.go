package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/resource"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
)

func newPreview(o *options) *cobra.Command {
	var files []string
	var replicas int
	cmd := &cobra.Command{
		Use:   "preview (KIND/NAME | -f FILE)",
		Short: "What addresses machines would get that are not there yet",
		Long: "What addresses machines would get that are not there yet.\n\n" +
			"KIND is machinedeployment, kubeadmcontrolplane, or cluster. A file may have VSphereMachines, too, and templates. " +
			"The manager is asked by a dry run, which makes nothing. The exit code is 1 if it would refuse a machine, or if there are too few addresses.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (len(files) == 0) {
				return exit{exitUsage, errors.New("name KIND/NAME, or a file with -f")}
			}
			p, err := o.newPreviewer(cmd.Context())
			if err != nil {
				return err
			}
			if len(files) > 0 {
				err = p.addFiles(files)
			} else {
				err = p.addNamed(args[0])
			}
			if err != nil {
				return err
			}
			return p.run(cmd.Context(), replicas)
		},
	}
	cmd.Flags().StringSliceVarP(&files, "filename", "f", nil, "File with manifests, or - for standard input.")
	cmd.Flags().IntVar(&replicas, "replicas", -1, "Number of machines, in place of what a MachineDeployment or a KubeadmControlPlane says.")
	return cmd
}

// previewer asks what machines would get.
type previewer struct {
	*options
	graph     *inventory.Graph
	namespace string
	// warned are the warnings of the API server to the last request.
	client client.Client
	warned *warnings

	workloads []*inventory.Workload
	// fromFile are the templates that the cluster need not have.
	fromFile map[*unstructured.Unstructured]bool
	// refused says that somebody would get no address, and forbidden that the manager
	// could not be asked.
	refused, forbidden bool
}

// warnings implements rest.WarningHandler.
type warnings struct{ texts []string }

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) { w.texts = append(w.texts, text) }

func (o *options) newPreviewer(ctx context.Context) (*previewer, error) {
	p := &previewer{options: o, warned: &warnings{}, fromFile: map[*unstructured.Unstructured]bool{}}
	var err error
	if p.namespace, _, err = o.config.ToRawKubeConfigLoader().Namespace(); err != nil {
		return nil, exit{exitUnreachable, err}
	}
	if p.client, err = o.connect(p.warned); err != nil {
		return nil, err
	}
	p.graph, err = o.read(ctx, "")
	return p, err
}

// addNamed adds the workload of this name, or those of a Cluster.
func (p *previewer) addNamed(text string) error {
	kind, name, ok := strings.Cut(text, "/")
	kinds := map[string]string{
		"machinedeployment": capi.MachineDeploymentKind.Kind, "machinedeployments": capi.MachineDeploymentKind.Kind, "md": capi.MachineDeploymentKind.Kind,
		"kubeadmcontrolplane": capi.KubeadmControlPlaneKind.Kind, "kubeadmcontrolplanes": capi.KubeadmControlPlaneKind.Kind, "kcp": capi.KubeadmControlPlaneKind.Kind,
		"cluster": capi.ClusterKind.Kind, "clusters": capi.ClusterKind.Kind, "cl": capi.ClusterKind.Kind,
	}
	wanted := kinds[strings.ToLower(kind)]
	if !ok || wanted == "" {
		return exit{exitUsage, fmt.Errorf("%q is not KIND/NAME, as in machinedeployment/md-0: KIND is one of machinedeployment, kubeadmcontrolplane, cluster", text)}
	}
	for _, w := range p.graph.Workloads {
		named := w.GetKind() == wanted && w.GetName() == name
		if w.GetNamespace() == p.namespace && (named || wanted == capi.ClusterKind.Kind && w.Cluster == name) {
			p.workloads = append(p.workloads, w)
		}
	}
	if len(p.workloads) == 0 {
		return exit{exitNo, fmt.Errorf("no %s %q with machines in namespace %q", wanted, name, p.namespace)}
	}
	return nil
}

// addFiles adds what is written in files, which need not be in the cluster.
func (p *previewer) addFiles(files []string) error {
	infos, err := resource.NewLocalBuilder().Unstructured().Flatten().
		FilenameParam(false, &resource.FilenameOptions{Filenames: files}).
		StdinInUse().Do().Infos()
	if err != nil {
		return exit{exitUsage, fmt.Errorf("reading what is to be previewed: %w", err)}
	}
	var objects []*unstructured.Unstructured
	for _, info := range infos {
		if object, ok := info.Object.(*unstructured.Unstructured); ok {
			if object.GetNamespace() == "" {
				object.SetNamespace(p.namespace)
			}
			objects = append(objects, object)
		}
	}
	// Templates may stand behind what names them.
	for _, object := range objects {
		if object.GroupVersionKind().GroupKind() == capi.VSphereMachineTemplateKind {
			p.graph.Templates[client.ObjectKeyFromObject(object)], p.fromFile[object] = object, true
		}
	}
	for _, object := range objects {
		p.addObject(object)
	}
	if len(p.workloads) == 0 {
		return exit{exitUsage, errors.New("there is no VSphereMachine, MachineDeployment, KubeadmControlPlane or Cluster with machines in it")}
	}
	return nil
}

func (p *previewer) addObject(object *unstructured.Unstructured) {
	switch object.GroupVersionKind().GroupKind() {
	case capi.VSphereMachineKind:
		p.workloads = append(p.workloads, p.graph.Lone(object))
	case capi.MachineDeploymentKind, capi.KubeadmControlPlaneKind:
		p.workloads = append(p.workloads, p.graph.Workload(object))
	case capi.ClusterKind:
		if _, isTopology, _ := unstructured.NestedMap(object.Object, "spec", "topology"); isTopology {
			p.workloads = append(p.workloads, p.graph.Topology(object)...)
		}
	}
}

// run tells of each, and returns what the exit code says.
func (p *previewer) run(ctx context.Context, replicas int) error {
	for _, w := range p.workloads {
		if replicas >= 0 && w.GetKind() != capi.VSphereMachineKind.Kind {
			w.Replicas = replicas
		}
		if err := p.previewWorkload(ctx, w); err != nil {
			return err
		}
	}
	if p.forbidden {
		fmt.Fprintln(p.streams.ErrOut, "warning: you may not create vspheremachines, so that the manager was not asked: this is decided here, by what can be read")
	}
	if p.refused {
		return exit{code: exitNo}
	}
	return seen(p.graph)
}

func (p *previewer) previewWorkload(ctx context.Context, w *inventory.Workload) error {
	fmt.Fprintf(p.streams.Out, "%s/%s (%s)\n", w.GetKind(), w.GetName(), plural(w.Replicas, "machine"))
	if w.AsksError != nil {
		p.complain("would be refused: %v", w.AsksError)
		return nil //nolint:nilerr // it is what was asked about
	}
	for _, ask := range w.Asks {
		fmt.Fprintf(p.streams.Out, "  device %d %q asks by %s\n", ask.Device.Index, ask.Device.NetworkName, ask.AskedBy)
	}
	for _, d := range p.graph.DemandsOf(w) {
		p.tellDemand(d)
	}
	if w.Replicas == 0 {
		return nil
	}
	machine, err := p.machineOf(w)
	if err != nil {
		return err
	}
	answer, err := p.ask(ctx, machine)
	if err != nil {
		return err
	}
	p.tellAnswer(answer, len(w.Asks))
	return nil
}

// tellDemand says what the machines that are missing would take of what is free.
func (p *previewer) tellDemand(d inventory.Demand) {
	free, known := d.Free()
	if !known {
		fmt.Fprintf(p.streams.Out, "  %s: %d more\n", d.PoolNames(), d.Scale)
		return
	}
	fmt.Fprintf(p.streams.Out, "  %s: %d more of %s free\n", d.PoolNames(), d.Scale, inventory.InWords(free))
	if short := d.Lacks(d.Scale); short > 0 {
		p.complain("%s would be refused: add addresses to %s", plural(short, "machine"), d.PoolNames())
	}
}

// answer is what came of a dry run.
type answer struct {
	warnings []string
	denial   error
	// asked: the manager was asked.
	asked bool
}

// ask sends a dry run of a machine's creation. Nothing is made by it.
func (p *previewer) ask(ctx context.Context, machine *unstructured.Unstructured) (answer, error) {
	p.warned.texts = nil
	err := p.client.Create(ctx, machine.DeepCopy(), client.DryRunAll)
	switch {
	case err == nil:
		return answer{warnings: p.warned.texts, asked: true}, nil
	case isForbiddenByRights(err):
		p.forbidden = true
		return answer{}, nil
	case apierrors.ReasonForError(err) != "":
		return answer{warnings: p.warned.texts, denial: err, asked: true}, nil
	}
	return answer{}, exit{exitUnreachable, fmt.Errorf("asking about a machine: %w", err)}
}

// isForbiddenByRights tells a want of rights from the denial of a webhook, which has the
// same reason.
func isForbiddenByRights(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot create resource")
}

const claims = "would claim "

// tellAnswer prints what the manager said of a machine that asks for so many addresses. Of
// a dry run it denies nothing, but says why it would.
func (p *previewer) tellAnswer(a answer, asks int) {
	if !a.asked {
		return
	}
	if a.denial != nil {
		p.complain("would be refused: %v", a.denial)
		return
	}
	served := slices.ContainsFunc(a.warnings, func(text string) bool { return strings.HasPrefix(text, claims) })
	for _, text := range a.warnings {
		if asks > 0 && !served && !isDeferred(text) {
			p.complain("would be refused: %s", text)
			continue
		}
		fmt.Fprintf(p.streams.Out, "  %s\n", oneLine(text))
	}
	if asks > 0 && len(a.warnings) == 0 {
		p.complain("nobody answers for it: is capv-static-ip installed, and does it serve this namespace?")
	}
}

// isDeferred tells whether the manager says that addresses follow later.
func isDeferred(text string) bool {
	return strings.Contains(text, "its addresses follow when") || strings.Contains(text, "they are claimed when its Machine exists")
}

func (p *previewer) complain(format string, args ...any) {
	p.refused = true
	fmt.Fprintf(p.streams.Out, "  %s %s\n", p.paint(red, "!"), oneLine(fmt.Sprintf(format, args...)))
}

// machineOf is a machine as Cluster API makes it of its template for a workload.
func (p *previewer) machineOf(w *inventory.Workload) (*unstructured.Unstructured, error) {
	if w.GetKind() == capi.VSphereMachineKind.Kind {
		return w.Unstructured, nil
	}
	template := p.graph.Templates[client.ObjectKey{Namespace: w.GetNamespace(), Name: w.Template}]
	made, err := w.Machine(template)
	if err != nil {
		return nil, err
	}
	spec, _, err := unstructured.NestedMap(template.Object, "spec", "template", "spec")
	if err != nil {
		return nil, fmt.Errorf("reading VSphereMachineTemplate %q: %w", w.Template, err)
	}
	machine := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	machine.SetGroupVersionKind(template.GroupVersionKind().GroupVersion().WithKind(capi.VSphereMachineKind.Kind))
	machine.SetNamespace(w.GetNamespace())
	machine.SetName(w.GetName() + "-preview")
	labels, annotations := maps.Clone(made.Labels), maps.Clone(made.Annotations)
	labels[clusterv1.ClusterNameLabel] = w.Cluster
	if w.GetKind() == capi.KubeadmControlPlaneKind.Kind {
		labels[clusterv1.MachineControlPlaneLabel], labels[clusterv1.MachineControlPlaneNameLabel] = "", w.GetName()
	} else {
		labels[clusterv1.MachineDeploymentNameLabel] = w.GetName()
	}
	annotations[clusterv1.TemplateClonedFromNameAnnotation] = w.Template
	annotations[clusterv1.TemplateClonedFromGroupKindAnnotation] = capi.VSphereMachineTemplateKind.String()
	if p.fromFile[template] {
		// The manager cannot read it.
		copyAsks(labels, template.GetLabels())
		copyAsks(annotations, template.GetAnnotations())
	}
	machine.SetLabels(labels)
	machine.SetAnnotations(annotations)
	return machine, nil
}

// copyAsks has a machine ask itself for what its template asks for.
func copyAsks(into, from map[string]string) {
	for key, value := range from {
		if _, has := into[key]; !has && ipam.ReadsAnnotation(key) {
			into[key] = value
		}
	}
}
