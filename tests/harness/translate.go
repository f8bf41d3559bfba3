package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
)

const (
	oldVersion = "v1beta1"
	newVersion = "v1beta2"
)

// Groups of which an older provider serves v1beta1 alone.
var (
	groupsOfCAPV = []string{"infrastructure.cluster.x-k8s.io"}
	groupsOfCAPI = []string{
		"cluster.x-k8s.io", "bootstrap.cluster.x-k8s.io", "controlplane.cluster.x-k8s.io",
		"addons.cluster.x-k8s.io", "ipam.cluster.x-k8s.io",
	}
)

// translator is for clients that know v1beta2, of an API server that serves
// v1beta1 alone: the tests are written with the types of v1beta2, and what the
// fixtures set has the same form in both. Who asks for v1beta1 sees everything as
// it is; who does not sees v1beta2 wherever a version is named.
type translator struct {
	next   http.RoundTripper
	groups []string
	// newer and older are the places in a body that name a version.
	newer, older *regexp.Regexp
}

// translate has the clients of a config speak v1beta1 where that alone is served.
func (c *ControlPlane) translate(config *rest.Config) {
	var groups []string
	if c.options.OldCAPV {
		groups = append(groups, groupsOfCAPV...)
	}
	if c.options.OldCAPI {
		groups = append(groups, groupsOfCAPI...)
	}
	if len(groups) == 0 {
		return
	}
	named := `("apiVersion": ?"(?:` + strings.ReplaceAll(strings.Join(groups, "|"), ".", `\.`) + `)/)`
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return translator{
			next: next, groups: groups,
			newer: regexp.MustCompile(named + newVersion + `"`), older: regexp.MustCompile(named + oldVersion + `"`),
		}
	})
}

// RoundTrip implements http.RoundTripper.
func (t translator) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasPrefix(r.URL.Path, "/apis/apiextensions.k8s.io/") || t.asksFor(r.URL.Path, oldVersion) {
		return t.next.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	if r.URL.Path == "/apis" || r.URL.Path == "/api" {
		// The list of everything would not have the version, which can be asked for.
		r.Header.Set("Accept", "application/json")
		return t.next.RoundTrip(r)
	}
	if t.asksFor(r.URL.Path, newVersion) {
		r.URL.Path = strings.Replace(r.URL.Path, "/"+newVersion, "/"+oldVersion, 1)
		r.URL.RawPath = ""
	}
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err := errors.Join(err, r.Body.Close()); err != nil {
			return nil, fmt.Errorf("translating a request: %w", err)
		}
		body = t.newer.ReplaceAll(body, []byte("${1}"+oldVersion+`"`))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	response, err := t.next.RoundTrip(r)
	if err == nil {
		response.Body = &translated{from: bufio.NewReader(response.Body), closer: response.Body, older: t.older}
	}
	return response, err
}

// asksFor reports whether a path is that of a version of a translated group.
func (t translator) asksFor(path, version string) bool {
	return slices.ContainsFunc(t.groups, func(group string) bool {
		prefix := "/apis/" + group + "/" + version
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	})
}

// translated is the body of an answer, in the newer version. It is read line by
// line, since each event of a watch is one. Both versions are of one length.
type translated struct {
	from   *bufio.Reader
	closer io.Closer
	older  *regexp.Regexp
	line   []byte
	err    error
}

// Read implements io.Reader.
func (t *translated) Read(into []byte) (int, error) {
	if len(t.line) == 0 && t.err == nil {
		t.line, t.err = t.from.ReadBytes('\n')
		t.line = t.older.ReplaceAll(t.line, []byte("${1}"+newVersion+`"`))
	}
	if len(t.line) == 0 {
		return 0, t.err
	}
	n := copy(into, t.line)
	t.line = t.line[n:]
	return n, nil
}

// Close implements io.Closer.
func (t *translated) Close() error { return t.closer.Close() }
