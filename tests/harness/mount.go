package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// mountedFolder is a folder with files as a kubelet mounts a Secret: they are
// links through ..data, and a change swaps that one link, so that a reader sees
// the old files or the new ones, never a mixture.
type mountedFolder struct {
	dir        string
	generation int
}

// replace gives the folder other files. Their names never change.
func (f *mountedFolder) replace(files map[string][]byte) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	generation := f.generation + 1
	if err := f.write(generation, files); err != nil {
		return err
	}
	fresh := filepath.Join(f.dir, "..data_tmp")
	if err := os.Symlink(generationName(generation), fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(f.dir, "..data")); err != nil {
		return err
	}
	if f.generation > 0 {
		// As the kubelet does, drop what nobody reads any more.
		if err := os.RemoveAll(filepath.Join(f.dir, generationName(f.generation))); err != nil {
			return err
		}
	}
	f.generation = generation
	return f.link(files)
}

func (f *mountedFolder) write(generation int, files map[string][]byte) error {
	dir := filepath.Join(f.dir, generationName(generation))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *mountedFolder) link(files map[string][]byte) error {
	for name := range files {
		err := os.Symlink(filepath.Join("..data", name), filepath.Join(f.dir, name))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

func generationName(generation int) string { return "..generation-" + strconv.Itoa(generation) }

// remountInterval is how soon a watch that broke is tried again.
const remountInterval = 200 * time.Millisecond

// mount shows a Secret in a folder, as the kubelet would, but at once. It
// returns when the Secret is there, and follows it until the control plane stops.
func (c *ControlPlane) mount(ctx context.Context, secret types.NamespacedName, dir string) error {
	folder := &mountedFolder{dir: dir}
	seen := ""
	err := Eventually(ctx, certificateTimeout, "Secret "+secret.String()+" to be made", func(ctx context.Context) error {
		object := &corev1.Secret{}
		if err := c.Client.Get(ctx, secret, object); err != nil {
			return err
		}
		seen = object.ResourceVersion
		return folder.replace(object.Data)
	})
	if err != nil {
		return err
	}
	lifetime, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.closeLater(closer(cancel))
	go func() {
		for lifetime.Err() == nil {
			seen = c.follow(lifetime, secret, folder, seen)
			select {
			case <-lifetime.Done():
			case <-time.After(remountInterval):
			}
		}
	}()
	return nil
}

// follow mounts each change of a Secret until the watch ends, and returns the
// version that it mounted last.
func (c *ControlPlane) follow(ctx context.Context, secret types.NamespacedName, folder *mountedFolder, seen string) string {
	watcher, err := c.Client.Watch(ctx, &corev1.SecretList{},
		client.InNamespace(secret.Namespace), client.MatchingFields{"metadata.name": secret.Name})
	if err != nil {
		return seen
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		object, ok := event.Object.(*corev1.Secret)
		if !ok || object.ResourceVersion == seen || len(object.Data[corev1.TLSCertKey]) == 0 {
			continue
		}
		if err := folder.replace(object.Data); err != nil {
			fmt.Fprintln(c.options.Progress, "mounting Secret", secret, "failed:", err)
			return seen
		}
		seen = object.ResourceVersion
	}
	return seen
}

// closer makes a function one that closeLater takes.
type closer func()

// Close calls the function.
func (c closer) Close() error { c(); return nil }
