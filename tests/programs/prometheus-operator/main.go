// Command monitoring-objects checks that objects are ones of the Prometheus operator,
// without fields that it does not know. It takes YAML documents on standard input, and
// prints the kinds of those that it has checked.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "monitoring-objects:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	content, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("reading the objects: %w", err)
	}
	for document := range strings.SplitSeq(string(content), "\n---\n") {
		kind, err := check([]byte(document))
		if err != nil {
			return err
		}
		fmt.Fprintln(out, kind)
	}
	return nil
}

// check decodes one object strictly into the type of its kind, and returns the kind.
func check(document []byte) (string, error) {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(document, &head); err != nil {
		return "", fmt.Errorf("reading the kind of an object: %w", err)
	}
	known := map[string]any{
		monitoringv1.ServiceMonitorsKind: &monitoringv1.ServiceMonitor{},
		monitoringv1.PodMonitorsKind:     &monitoringv1.PodMonitor{},
		monitoringv1.PrometheusRuleKind:  &monitoringv1.PrometheusRule{},
	}
	object, ok := known[head.Kind]
	if !ok || head.APIVersion != monitoringv1.SchemeGroupVersion.String() {
		return "", fmt.Errorf("%s of %s is not a kind of the operator", head.Kind, head.APIVersion)
	}
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return "", fmt.Errorf("reading a %s: %w", head.Kind, err)
	}
	return head.Kind, nil
}
