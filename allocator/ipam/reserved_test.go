package ipam

import (
	"maps"
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReservationsAreThoseThatThePoolSays(t *testing.T) {
	pool := &metav1.PartialObjectMetadata{}
	reserved := Reservations{netip.MustParseAddr("10.0.0.5"): "a VM has it", netip.MustParseAddr("2001:db8::5"): ""}
	if err := reserved.Keep(pool); err != nil {
		t.Fatal(err)
	}
	if want := `{"10.0.0.5":"a VM has it","2001:db8::5":""}`; pool.Annotations[ReservedAnnotation] != want {
		t.Errorf("got %s, want %s", pool.Annotations[ReservedAnnotation], want)
	}
	if got, err := ReservationsOf(pool); err != nil || !maps.Equal(got, reserved) {
		t.Errorf("got %v, %v, want %v", got, err, reserved)
	}
	if err := (Reservations{}).Keep(pool); err != nil || len(pool.Annotations) > 0 {
		t.Errorf("got %v, %v, want no annotation for none", pool.Annotations, err)
	}
	pool.Annotations = map[string]string{ReservedAnnotation: "what"}
	if _, err := ReservationsOf(pool); err == nil {
		t.Error("what cannot be read is no error")
	}
}
