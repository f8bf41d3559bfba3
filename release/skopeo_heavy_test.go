//go:build heavy

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// skopeo runs skopeo, which shares no code with what writes our images, and returns its
// output alone.
func skopeo(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Fatal("this needs skopeo, as in: apt-get install skopeo")
	}
	cmd := exec.CommandContext(t.Context(), "skopeo", append([]string{"--insecure-policy"}, args...)...)
	cmd.Dir = dir
	output, err := cmd.Output()
	if err != nil {
		var said []byte
		if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output returns no other
			said = exit.Stderr
		}
		t.Fatalf("skopeo %v: %v\n%s", args, err, said)
	}
	return output
}

func skopeoReads(t *testing.T, dist string) {
	raw := isTheImage(t, dist, "oci-archive:"+filepath.Join(dist, imageArchive))
	sum := sha256.Sum256(raw)
	if got, want := "sha256:"+hex.EncodeToString(sum[:]), strings.TrimSpace(read(t, filepath.Join(dist, "image.digest"))); got != want {
		t.Errorf("its digest is %s, want %s", got, want)
	}
	isTheProvider(t, "oci-archive:"+filepath.Join(dist, providerArchive))
}

// isTheImage checks what skopeo finds: an image of two platforms, of which each is for
// the one that it is said to be for, and has the digest that the notes say. It returns
// the list of platforms.
func isTheImage(t *testing.T, dist, source string, flags ...string) []byte {
	t.Helper()
	inspect := append([]string{"inspect"}, flags...)
	raw := skopeo(t, dist, slices.Concat(inspect, []string{"--raw", source})...)
	var index struct {
		MediaType string
		Manifests []struct {
			Digest   string
			Platform struct{ OS, Architecture string }
		}
	}
	decode(t, raw, &index)
	var platforms []string
	for _, manifest := range index.Manifests {
		platform := manifest.Platform.OS + "/" + manifest.Platform.Architecture
		platforms = append(platforms, platform)
		if line := manifest.Digest + " (" + platform + ")"; !strings.Contains(read(t, filepath.Join(dist, "RELEASE_NOTES.md")), line) {
			t.Errorf("the notes do not say %q", line)
		}
	}
	if index.MediaType != "application/vnd.oci.image.index.v1+json" || !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Fatalf("it is a %s for %q", index.MediaType, platforms)
	}
	for _, architecture := range architectures {
		choose := slices.Concat([]string{"--override-os=linux", "--override-arch=" + architecture}, inspect)
		var found struct {
			Os, Architecture string
			Labels           map[string]string
			Layers           []string
		}
		decode(t, skopeo(t, dist, append(choose, source)...), &found)
		if found.Os != "linux" || found.Architecture != architecture || len(found.Layers) != 1 || found.Labels["org.opencontainers.image.version"] != "v0.1.0" {
			t.Errorf("for %s it is %+v", architecture, found)
		}
		var config struct {
			Config struct {
				User       string
				Entrypoint []string
			}
		}
		decode(t, skopeo(t, dist, slices.Concat(choose, []string{"--config", source})...), &config)
		if config.Config.User != "65532:65532" || !slices.Equal(config.Config.Entrypoint, []string{"/capv-static-ip"}) {
			t.Errorf("for %s it runs %+v", architecture, config)
		}
	}
	return raw
}

// isTheProvider checks that skopeo finds the files that the operator of Cluster API looks for.
func isTheProvider(t *testing.T, source string, flags ...string) {
	t.Helper()
	var manifest struct {
		Layers []struct{ Annotations map[string]string }
	}
	decode(t, skopeo(t, ".", slices.Concat([]string{"inspect", "--raw"}, flags, []string{source})...), &manifest)
	var names []string
	for _, layer := range manifest.Layers {
		names = append(names, layer.Annotations["org.opencontainers.image.title"])
	}
	if want := []string{componentsFile, metadataFile}; !slices.Equal(names, want) {
		t.Errorf("it has files %q, want %q", names, want)
	}
}

// skopeoPushes runs the commands of README.txt for those who do not use load.sh. The list of
// platforms may be written anew, so that its digest is another.
func skopeoPushes(t *testing.T, dist string) {
	to := registryAt(t, "127.0.0.1:0") + "/capi"
	dir := bundleOf(t, dist)
	commands := regexp.MustCompile(`(?m)^ +skopeo (copy .*?(?:\\\n.*)?)$`).FindAllStringSubmatch(read(t, filepath.Join(dir, "README.txt")), -1)
	if len(commands) != 2 {
		t.Fatalf("README.txt has commands %q", commands)
	}
	for _, match := range commands {
		args := strings.Fields(strings.ReplaceAll(match[1], "\\\n", " "))
		for i := range args {
			args[i] = strings.Replace(args[i], "registry.corp.example/capi", to, 1)
		}
		// Nobody has a certificate for this registry.
		skopeo(t, dir, append(args, "--dest-tls-verify=false")...)
	}

	isTheImage(t, dist, "docker://"+to+"/capv-static-ip:v0.1.0", "--tls-verify=false")
	isTheProvider(t, "docker://"+to+"/capv-static-ip-provider:v0.1.0", "--tls-verify=false")
}

func decode(t *testing.T, content []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%v in\n%s", err, content)
	}
}
