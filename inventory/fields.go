package inventory

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// first is the text at the first of these paths that has one.
func first(object *unstructured.Unstructured, paths ...string) string {
	for _, path := range paths {
		if text, found, err := unstructured.NestedString(object.Object, strings.Split(path, ".")...); err == nil && found {
			return text
		}
	}
	return ""
}

// surgeAt is maxSurge at the first of these paths that has it, nil if none has.
func surgeAt(object *unstructured.Unstructured, paths ...string) *intstr.IntOrString {
	for _, path := range paths {
		value, found, err := unstructured.NestedFieldNoCopy(object.Object, append(strings.Split(path, "."), "maxSurge")...)
		if err != nil || !found {
			continue
		}
		switch surge := value.(type) {
		case int64:
			return new(intstr.FromInt32(int32(surge))) //nolint:gosec // the API allows no more
		case string:
			return new(intstr.FromString(surge))
		}
	}
	return nil
}
