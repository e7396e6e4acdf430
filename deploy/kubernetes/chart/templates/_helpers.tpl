{{- define "snowbank.name" -}}
{{- if contains "snowbank" .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- else -}}{{ printf "%s-snowbank" .Release.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}
{{- define "snowbank.selector" -}}
app.kubernetes.io/name: snowbank
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "snowbank.labels" -}}
{{ include "snowbank.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
