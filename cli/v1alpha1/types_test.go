package v1alpha1

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Who reads this output has these names in programs: they stay.
func TestFieldsKeepTheirNames(t *testing.T) {
	for kind, want := range map[string]struct {
		of     any
		fields string
	}{
		"Pool":        {Pool{}, "cooling free metadata pool problems reserved status surge total used waiting"},
		"Holding":     {Holding{}, "address cluster device holder metadata problem protected state vm"},
		"Machine":     {Machine{}, "addresses cluster metadata pools vm waitingFor"},
		"Explanation": {Explanation{}, "lines metadata next see title wrong"},
		"Demand":      {Demand{}, "allOwners autoscalerMax cools else free has metadata note owner pool rollOut scale short"},
		"Check":       {Check{}, "found metadata remedy state"},
		"Finding":     {Finding{}, "check finding metadata object remedy severity"},
		"Step":        {Step{}, "alreadyDone does metadata objects"},
		"Move":        {Move{}, "address from metadata obstacle pool state to"},
		"Reservation": {Reservation{}, "address metadata obstacle pool reason state writes"},
		"Version":     {Version{}, "image metadata skew version where"},
		"Meta":        {Meta{}, "name namespace"},
		"List":        {List[Pool]{}, "items metadata"},
	} {
		var got []string
		of := reflect.TypeOf(want.of)
		for i := range of.NumField() {
			if name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ","); name != "" {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != want.fields {
			t.Errorf("a %s has the fields %s, want %s", kind, text, want.fields)
		}
	}
}
