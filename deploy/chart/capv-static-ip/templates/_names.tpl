{{- define "namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- define "labels" -}}
app.kubernetes.io/name: capv-static-ip
app.kubernetes.io/part-of: capv-static-ip
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "selector" -}}
app.kubernetes.io/name: capv-static-ip
app.kubernetes.io/component: manager
{{- end }}

{{- /* Objects that deploy/ has, with our labels: a list of [object, context]. */}}
{{- define "labelled" -}}
{{- $object := index . 0 }}
{{- $_ := set $object.metadata "labels" (merge (dict) (include "labels" (index . 1) | fromYaml) ($object.metadata.labels | default dict)) }}
{{- toYaml $object }}
{{- end }}

{{- define "image" -}}
{{- with .Values.image }}
{{- with .registry }}{{ . }}/{{ end }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}
