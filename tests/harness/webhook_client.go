package harness

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
)

// The files by which an API server shows a client certificate to the webhooks that
// it calls, as docs/security.md tells to write them. What they name is beside them.
const (
	webhookAdmission = `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: MutatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: %s/webhook-kubeconfig.yaml
`
	webhookKubeconfig = `apiVersion: v1
kind: Config
users:
- name: '*'
  user:
    client-certificate: %[1]s/webhook-client.crt
    client-key: %[1]s/webhook-client.key
`
)

// webhookClientArgs makes the API server show a certificate for the name in
// Options.WebhookClient to webhooks.
func (c *ControlPlane) webhookClientArgs() ([]string, error) {
	if c.options.WebhookClient == "" {
		return nil, nil
	}
	pair, err := c.webhookClients.client(c.options.WebhookClient)
	if err != nil {
		return nil, err
	}
	if _, _, err := pair.write(c.Dir, "webhook-client"); err != nil {
		return nil, err
	}
	config := filepath.Join(c.Dir, "admission.yaml")
	for path, content := range map[string]string{
		config: fmt.Sprintf(webhookAdmission, c.Dir),
		filepath.Join(c.Dir, "webhook-kubeconfig.yaml"): fmt.Sprintf(webhookKubeconfig, c.Dir),
		c.WebhookClientCA():                             string(c.webhookClients.bundle),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return nil, fmt.Errorf("configuring the API server's client certificate: %w", err)
		}
	}
	return []string{"--admission-control-config-file=" + config}, nil
}

// WebhookClientCA is the path of the authority that issued the certificate which
// the API server shows to webhooks.
func (c *ControlPlane) WebhookClientCA() string {
	return filepath.Join(c.Dir, "webhook-client-ca.crt")
}

// WebhookClient makes a certificate of that authority for another client.
func (c *ControlPlane) WebhookClient(name string) (tls.Certificate, error) {
	pair, err := c.webhookClients.client(name)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(pair.cert, pair.key)
}
