package integration

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// sharedNetwork is the network on which all devices are, as the tests see it.
const sharedNetwork = "VM Network"

var (
	namespaceInPath = regexp.MustCompile(`/namespaces/(scene-[^/?]+)/`)
	ownNetwork      = regexp.MustCompile(sharedNetwork + ` of scene-[a-z0-9-]+`)
)

// networks gives each scene a network of its own: an address is used only once on
// a network, and the scenes, which run side by side, all use the same few. The
// tests do not see it: names are translated on their way to the API server and
// back.
type networks struct{ next http.RoundTripper }

// isolateNetworks has the environment's client give each scene its own network.
func isolateNetworks(plane *harness.ControlPlane) error {
	config := rest.CopyConfig(plane.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return networks{next} })
	c, err := client.NewWithWatch(config, client.Options{Scheme: plane.Client.Scheme(), Mapper: plane.Client.RESTMapper()})
	if err != nil {
		return err
	}
	plane.Client = c
	return nil
}

// neighbours are the scenes that are on another scene's network.
var neighbours sync.Map

// neighbour is a scene in another namespace, on the same network.
func (s *scene) neighbour() *scene {
	s.Helper()
	next := newScene(s.T, s.env)
	neighbours.Store(next.ns, s.ns)
	return next
}

func networkOwner(namespace string) string {
	if owner, ok := neighbours.Load(namespace); ok {
		return owner.(string)
	}
	return namespace
}

// RoundTrip implements http.RoundTripper.
func (n networks) RoundTrip(r *http.Request) (*http.Response, error) {
	scene := namespaceInPath.FindStringSubmatch(r.URL.Path)
	if scene != nil && r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		own := sharedNetwork + " of " + networkOwner(scene[1])
		body = ownNetwork.ReplaceAll(body, []byte(sharedNetwork))
		body = bytes.ReplaceAll(body, []byte(sharedNetwork), []byte(own))
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	response, err := n.next.RoundTrip(r)
	if err != nil || r.URL.Query().Get("watch") != "" || !strings.Contains(r.URL.Path, "/vsphere") {
		return response, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	body = ownNetwork.ReplaceAll(body, []byte(sharedNetwork))
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return response, nil
}
