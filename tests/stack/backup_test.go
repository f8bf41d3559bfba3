package stack

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestBackupSaysHowManyOfEachResourceItHas(t *testing.T) {
	var backup Backup
	for _, kind := range []string{"Secret", "Secret", "ConfigMap"} {
		object := &unstructured.Unstructured{}
		object.SetAPIVersion("v1")
		object.SetKind(kind)
		backup = append(backup, object)
	}

	if got, want := backup.String(), "  2 secrets\n  1 configmaps"; got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
}
