// Package deploy has what is shipped, for programs that compare it with what is there.
package deploy

import _ "embed"

// MutatingWebhookConfiguration is the manifest of our webhooks, as it is shipped.
//
//go:embed webhook/mutating_webhook_configuration.yaml
var MutatingWebhookConfiguration []byte
