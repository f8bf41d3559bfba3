package harness

import (
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// limits are what the manager's Deployment has for its container.
type limits struct {
	memory int64
	env    []string
}

// limitsOf reads the limits of the Deployment among what we ship.
func limitsOf(objects manifests) (limits, error) {
	for _, object := range objects.only("Deployment") {
		deployment := &appsv1.Deployment{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, deployment); err != nil {
			return limits{}, fmt.Errorf("reading the Deployment of the manager: %w", err)
		}
		for i := range deployment.Spec.Template.Spec.Containers {
			container := &deployment.Spec.Template.Spec.Containers[i]
			found := limits{memory: container.Resources.Limits.Memory().Value()}
			for _, variable := range container.Env {
				if variable.Value != "" {
					found.env = append(found.env, variable.Name+"="+variable.Value)
				}
			}
			return found, nil
		}
	}
	return limits{}, errors.New("reading the Deployment of the manager: there is none")
}

// MemoryLimit is what the manager's Deployment allows it, in bytes.
func (m *Manager) MemoryLimit() int64 { return m.installation.limits.memory }
