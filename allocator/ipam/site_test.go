package ipam

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFailureDomainsThatAClaimIsRightForAreReadBack(t *testing.T) {
	for name, domains := range map[string][]string{"of one": {"a"}, "of two and none": {"", "a", "b"}, "of none": {""}, "where they play no part": nil} {
		t.Run(name, func(t *testing.T) {
			claim := &metav1.PartialObjectMetadata{}
			claim.SetAnnotations(map[string]string{"other": "kept", FailureDomainsAnnotation: "of an earlier request"})
			ask := Ask{}
			for _, name := range domains {
				ask.Sites = append(ask.Sites, Site{FailureDomain: name})
			}

			NoteFailureDomains(claim, ask)

			if got := NotedFailureDomains(claim); !slices.Equal(got, domains) || (got == nil) != (domains == nil) {
				t.Errorf("got %q, want %q", got, domains)
			}
			if claim.Annotations["other"] != "kept" {
				t.Error("other annotations are lost")
			}
		})
	}
}
