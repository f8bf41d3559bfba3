package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"capv-static-ip.dev/tests/torture/history"
)

// encoded is what etcd answers on a watch.
func encoded(t *testing.T, text string, keys ...any) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal(fmt.Appendf(nil, text, keys...), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func base(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func TestChangesInEtcdAreWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "history")
	to, err := history.NewWriter(path)
	if err != nil {
		t.Fatal(err)
	}
	r := newRecorder("", to)
	const key = "/registry/infrastructure.cluster.x-k8s.io/vspheremachines/ns/a"
	const machine = `{"metadata":{"namespace":"ns","name":"a","uid":"u"}}`
	for _, a := range []answer{
		encoded(t, `{"result":{"header":{"revision":"3"},"created":true}}`),
		encoded(t, `{"result":{"events":[{"kv":{"key":%q,"mod_revision":"4","value":%q}},{"kv":{"key":%q,"mod_revision":"5","value":%q}}]}}`,
			base(key), base(machine), base("/registry/leases/x"), base("\x00protobuf")),
		encoded(t, `{"result":{"events":[{"type":"DELETE","kv":{"key":%q,"mod_revision":"6"},"prev_kv":{"key":%q,"mod_revision":"4","value":%q}}]}}`,
			base(key), base(key), base(machine)),
	} {
		if err := r.take(a); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.await(t.Context(), 6); err != nil {
		t.Error(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	records, err := history.ReadFile(path)
	if err != nil || len(records) != 2 {
		t.Fatalf("read %v, error %v, want two records", records, err)
	}
	made, gone := records[0].Object, records[1].Object
	if made.Revision != 4 || made.UID != "u" || made.Gone || gone.Revision != 6 || gone.UID != "u" || !gone.Gone {
		t.Errorf("read %+v and %+v", made, gone)
	}
}

func TestHistoryWithAGapIsOfNoUse(t *testing.T) {
	t.Parallel()
	r := newRecorder("", nil)
	err := r.take(encoded(t, `{"result":{"canceled":true,"compact_revision":"70"}}`))
	if err == nil || r.err() == nil || r.revision != 69 {
		t.Errorf("the watch goes on after revision %d, error %v, of the whole %v", r.revision, err, r.err())
	}
}
