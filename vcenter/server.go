package vcenter

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25/soap"
)

// What the environment says, as govc has it.
const (
	envURL         = "GOVC_URL"
	envUsername    = "GOVC_USERNAME"
	envPassword    = "GOVC_PASSWORD" //nolint:gosec // this is its name
	envInsecure    = "GOVC_INSECURE"
	envAuthorities = "GOVC_TLS_CA_CERTS"
	envKnownHosts  = "GOVC_TLS_KNOWN_HOSTS"
)

// Server is a vCenter, and who logs in to it. It prints without the password.
type Server struct {
	url *url.URL
	// Username is who logs in, and password with what.
	Username string
	password string
	// Thumbprint is that of its certificate, empty where a known authority has signed that.
	Thumbprint string
	// Insecure says that its certificate is not looked at.
	Insecure                bool
	authorities, knownHosts string
	// page is how many virtual machines one answer has.
	page int32
}

// Host is what people call it.
func (s Server) Host() string { return s.url.Host }

// String implements fmt.Stringer.
func (s Server) String() string { return s.Host() }

// Environment reads a variable of the environment, empty if there is none.
type Environment func(name string) string

// server is the one at a URL. What a URL has that cannot be read may be a password, so that it is
// not in the error.
func (e Environment) server(text string) (Server, error) {
	parsed, err := soap.ParseURL(text)
	if err != nil || parsed == nil || parsed.Host == "" {
		return Server{}, errors.New("it is not the URL of a vCenter, as in vcenter.example.com")
	}
	s := Server{url: parsed, page: pageSize, authorities: e(envAuthorities), knownHosts: e(envKnownHosts)}
	s.Insecure = slices.Contains([]string{"1", "true"}, strings.ToLower(e(envInsecure)))
	s.Username = parsed.User.Username()
	s.password, _ = parsed.User.Password()
	parsed.User = nil
	return s, nil
}

// logIn has the environment say who logs in, where it does. A value may be the path of a file
// that has it.
func (e Environment) logIn(s *Server) error {
	for name, field := range map[string]*string{envUsername: &s.Username, envPassword: &s.password} {
		value, err := session.Secret(e(name))
		if err != nil {
			// The error has the name of the file, which may be meant as the password.
			return fmt.Errorf("the file that %s names may not be read", name)
		}
		if value != "" {
			*field = value
		}
	}
	return nil
}

// named is the vCenter of GOVC_URL, false if there is none.
func (e Environment) named() (s Server, is bool, err error) {
	text := e(envURL)
	if text == "" {
		return Server{}, false, nil
	}
	if s, err = e.server(text); err != nil {
		return Server{}, true, fmt.Errorf("%s: %w", envURL, err)
	}
	if err := e.logIn(&s); err != nil {
		return Server{}, true, err
	}
	if s.Username == "" {
		return Server{}, true, fmt.Errorf("%s names %s, and nobody who logs in: set %s and %s", envURL, s, envUsername, envPassword)
	}
	return s, true, nil
}
