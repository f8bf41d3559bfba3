package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// auditPolicy has the API server note who asked it for what, once it has
// answered. What is in requests and answers is left out. Leases are noise: they
// are renewed all the time by whoever leads.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  resources:
  - group: coordination.k8s.io
- level: Metadata
`

// Audited is one request that the API server has answered.
type Audited struct {
	Verb string `json:"verb"`
	URI  string `json:"requestURI"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	Object struct {
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		APIGroup    string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	Response struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Received metav1.MicroTime `json:"requestReceivedTimestamp"`
	Answered metav1.MicroTime `json:"stageTimestamp"`
}

// String says what was asked for, as in "get ipclaims.ipam.metal3.io".
func (a *Audited) String() string {
	if a.Object.Resource == "" {
		return a.Verb + " " + a.URI
	}
	resource := a.Object.Resource
	if a.Object.APIGroup != "" {
		resource += "." + a.Object.APIGroup
	}
	if a.Object.Subresource != "" {
		resource += "/" + a.Object.Subresource
	}
	return a.Verb + " " + resource
}

func (c *ControlPlane) auditLogPath() string { return filepath.Join(c.Dir, "audit.log") }

// auditArgs are the flags of an API server that keeps an audit log. Each request
// is in the log before its caller has the answer.
func (c *ControlPlane) auditArgs() ([]string, error) {
	policy := filepath.Join(c.Dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, fmt.Errorf("writing the audit policy: %w", err)
	}
	return []string{
		"--audit-policy-file=" + policy,
		"--audit-log-path=" + c.auditLogPath(),
		"--audit-log-mode=blocking",
	}, nil
}

// AuditLog returns what a user, or anybody if it is empty, asked the API server for and
// was answered after some moment, in the order of the answers. It needs Options.AuditLog.
func (c *ControlPlane) AuditLog(user string, after time.Time) ([]Audited, error) {
	file, err := os.Open(c.auditLogPath())
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	defer file.Close()
	var entries []Audited
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			// What has no end yet is still being written.
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		var entry Audited
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		if (user == "" || entry.User.Username == user) && entry.Answered.After(after) {
			entries = append(entries, entry)
		}
	}
}
