package programs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func builder(t *testing.T) *Builder {
	t.Helper()
	b, err := NewBuilder(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	b.Cache = t.TempDir()
	return b
}

func lookUp(t *testing.T, name string) program {
	t.Helper()
	i := slices.IndexFunc(known, func(p program) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("%s is not known", name)
	}
	return known[i]
}

func TestUnknownProgramIsRefused(t *testing.T) {
	if _, err := builder(t).Path(t.Context(), "docker"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
}

func TestAssetsOfTheDeveloperComeFirst(t *testing.T) {
	assets := t.TempDir()
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	want := filepath.Join(assets, "etcd")
	if err := os.WriteFile(want, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := builder(t).Path(t.Context(), "etcd"); err != nil || got != want {
		t.Errorf("got %q and error %v, want %q", got, err, want)
	}
	if path, ok := asset(lookUp(t, "kube-controller-manager")); ok {
		t.Errorf("found %s, which is not there", path)
	}
}

func TestChangedModuleFileGivesAnotherKey(t *testing.T) {
	b := builder(t)
	etcd := lookUp(t, "etcd")
	b.Root = t.TempDir()
	if err := os.MkdirAll(b.family(etcd), 0o755); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, content := range []string{"a", "b", "a"} {
		for _, file := range []string{"go.mod", "go.sum"} {
			if err := os.WriteFile(filepath.Join(b.family(etcd), file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		key, err := b.key(etcd)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if keys[0] == keys[1] || keys[0] != keys[2] {
		t.Errorf("got keys %v, want the first and the last alike, and another between them", keys)
	}
}

func TestChangedSourceOfOurOwnMainGivesAnotherKey(t *testing.T) {
	b := builder(t)
	vcenter := lookUp(t, "vcenter")
	b.Root = t.TempDir()
	if err := os.MkdirAll(b.family(vcenter), 0o755); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, content := range []string{"a", "b"} {
		for _, file := range []string{"go.mod", "go.sum", "main.go"} {
			if err := os.WriteFile(filepath.Join(b.family(vcenter), file), []byte("same"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(b.family(vcenter), "guest.go"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := b.key(vcenter)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	if keys[0] == keys[1] {
		t.Error("a changed source gives the same key")
	}
}

// The version that is written into the programs has to be that of the module.
func TestKubernetesKnowsItsVersion(t *testing.T) {
	b := builder(t)
	apiServer := lookUp(t, "kube-apiserver")
	got, err := b.goOutput(t.Context(), b.family(apiServer), "list", "-m", "-f", "{{.Version}}", apiServer.module)
	if err != nil || got != kubernetesVersion {
		t.Errorf("the module file has %s (error %v), the build flags %s", got, err, kubernetesVersion)
	}
}
