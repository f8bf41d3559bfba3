package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/tests/harness"
)

// browser is one that followed the link of kubectl static-ip web.
type browser struct {
	*scene
	http   *http.Client
	origin string
	cmd    *exec.Cmd
}

// web starts kubectl static-ip web in the scene's namespace, and follows its link.
func (s *scene) web(args ...string) *browser {
	s.Helper()
	path, err := builtPlugin()
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Context(), path, append([]string{"--kubeconfig", s.env.Kubeconfig, "--namespace", s.ns, "web", "--no-browser"}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	link, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.Fatalf("kubectl static-ip web prints no link: %v: %s", err, stderr.String())
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.Fatal(err)
	}
	b := &browser{scene: s, http: &http.Client{Jar: jar}, cmd: cmd}
	b.origin, _, _ = strings.Cut(link, "/?")
	if status, text := b.get(s.Context(), strings.TrimSpace(strings.TrimPrefix(link, b.origin))); status != http.StatusOK {
		s.Fatalf("the link leads to %d: %s", status, text)
	}
	return b
}

// get is the answer for a page.
func (b *browser) get(ctx context.Context, target string) (status int, text string) {
	b.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.origin+target, http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	answer, err := b.http.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		b.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// says tells whether a page says something.
func (b *browser) says(target, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		if status, text := b.get(ctx, target); status != http.StatusOK || !strings.Contains(text, want) {
			return fmt.Errorf("%s says, with %d,\n%s\nwant %q in it", target, status, text, want)
		}
		return nil
	}
}

func TestPageFollowsTheCluster(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.pool(f, f.WithIPs(170, 173))
	s.create(s.asks(f, "cp-0"))
	s.eventually("the address to be adopted", s.adopted("cp-0"))
	b := s.web()
	pool := "/pools/InClusterIPPool/" + s.ns + "/" + f.PoolName
	s.eventually("the machine to be shown", b.says(pool, "VSphereMachine/cp-0"))
	s.eventually("it to be explained", b.says("/objects/VSphereMachine/"+s.ns+"/cp-0", "As it should be."))

	s.create(s.asks(f, "cp-1"))

	s.eventually("the new machine to be shown", b.says(pool, "VSphereMachine/cp-1"))
	s.create(harness.Machine(s.ns, "by-hand", harness.WithDevices(harness.FixedDevice(f.IP(173)+"/24"))))
	s.eventually("what is wrong to be found", b.says("/findings", "has "+f.IP(173)+", written by hand"))
	stranger := &browser{scene: s, http: &http.Client{}, origin: b.origin}
	if status, _ := stranger.get(t.Context(), "/pools"); status != http.StatusUnauthorized {
		t.Errorf("who has no cookie gets %d", status)
	}
	if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C ends it with %v", err)
	}
}

func TestPageSaysWhatTheUserMayNotSee(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.pool(f, f.WithIPs(170, 173))
	const name = "half-blind"
	s.create(
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"ipam.cluster.x-k8s.io"}, Resources: []string{"*"}, Verbs: []string{"list", "watch"}},
			{APIGroups: []string{"infrastructure.cluster.x-k8s.io"}, Resources: []string{"vspheremachines"}, Verbs: []string{"list"}},
		}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}})
	s.eventually("the rights to be known", func(context.Context) error {
		if stdout, stderr, _ := s.plugin("pools", "--as", name); !strings.Contains(stdout, f.PoolName) {
			return errors.New(stderr)
		}
		return nil
	})
	b := s.web("--as", name)

	s.eventually("the page to say it", b.says("/pools", "VSphereVMs cannot be listed: forbidden"))
	s.eventually("the page to say it", b.says("/pools", "VSphereMachines cannot be watched: changes of them are seen within 15s"))
	s.eventually("the pool to be shown all the same", b.says("/pools", url.PathEscape(f.PoolName)))
	// By the list that is read from time to time.
	s.create(harness.Machine(s.ns, "by-hand", harness.WithDevices(harness.StaticDevice())))
	s.eventually("a machine that is not watched to be found", b.says("/find?q=by-han", "VSphereMachine "+s.ns+"/by-hand"))
}
