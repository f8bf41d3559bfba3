package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const sumsFile = "SHA256SUMS"

// sum is the digest of one file.
type sum struct{ name, digest string }

// sums are those of all files in a folder, in order.
func sums(dir string) ([]sum, error) {
	var all []sum
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		digest, err := digest(path)
		all = append(all, sum{name: filepath.ToSlash(name), digest: digest})
		return err
	})
	return all, err
}

func digest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// writeSums writes, into a folder, the file that sha256sum -c reads.
func writeSums(dir string) error {
	all, err := sums(dir)
	if err != nil {
		return fmt.Errorf("summing up %s: %w", dir, err)
	}
	var text strings.Builder
	for _, file := range all {
		fmt.Fprintf(&text, "%s  %s\n", file.digest, file.name)
	}
	return os.WriteFile(filepath.Join(dir, sumsFile), []byte(text.String()), 0o644)
}

// makeSums writes the sums of the release, and has them signed if it is told how.
func (r *release) makeSums(ctx context.Context) error {
	if err := writeSums(r.out); err != nil || r.sign == "" {
		return err
	}
	command := strings.NewReplacer("{in}", sumsFile, "{out}", sumsFile+".sigstore.json").Replace(r.sign)
	_, err := r.outputIn(ctx, r.out, nil, "sh", "-c", command)
	return err
}

// makeProvenance says what the files were made of, in the form of SLSA. It is not
// signed by itself: the sums have it, too.
func (r *release) makeProvenance(ctx context.Context) error {
	all, err := sums(r.out)
	if err != nil {
		return err
	}
	compiler, err := r.output(ctx, "go", "env", "GOVERSION")
	if err != nil {
		return err
	}
	subjects := make([]any, 0, len(all))
	for _, file := range all {
		subjects = append(subjects, map[string]any{"name": file.name, "digest": map[string]any{"sha256": file.digest}})
	}
	statement := map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       subjects,
		"predicateType": "https://slsa.dev/provenance/v1",
		"predicate": map[string]any{
			"buildDefinition": map[string]any{
				"buildType":            "https://capv-static-ip.dev/release/v1",
				"externalParameters":   map[string]any{"version": r.version, "registry": r.registry},
				"internalParameters":   map[string]any{"go": compiler},
				"resolvedDependencies": []any{map[string]any{"name": "capv-static-ip.dev", "digest": map[string]any{"gitCommit": r.commit}}},
			},
			"runDetails": map[string]any{"builder": map[string]any{"id": "https://capv-static-ip.dev/release/make"}},
		},
	}
	content, err := json.MarshalIndent(statement, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, "provenance.intoto.json"), append(content, '\n'), 0o644)
}
