{{- define "plimsoll.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "plimsoll.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "plimsoll.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "plimsoll.selectorLabels" -}}
app.kubernetes.io/name: {{ include "plimsoll.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "plimsoll.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "plimsoll.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.additionalLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "plimsoll.annotations" -}}
{{- with .Values.additionalAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "plimsoll.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "plimsoll.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "plimsoll.image" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository is empty: no image is published yet, so build one, push it and name it (docs/getting-started.md)" }}
{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Where its pods may run. */}}
{{- define "plimsoll.nodeAffinity" -}}
{{- $affinity := default dict .Values.affinity }}
{{- if hasKey $affinity "nodeAffinity" }}
{{- with $affinity.nodeAffinity }}
{{- toYaml . }}
{{- end }}
{{- else if eq .Values.mode "automate" }}
requiredDuringSchedulingIgnoredDuringExecution:
  nodeSelectorTerms:
    - matchExpressions:
        - key: karpenter.sh/nodepool
          operator: DoesNotExist
{{- end }}
{{- end }}

{{/* A duration such as 1h30m in seconds. */}}
{{- define "plimsoll.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 }}
{{- $seconds := 0.0 }}
{{- range regexFindAll "[0-9.]+(ms|[smh])" . -1 }}
{{- $seconds = addf $seconds (mulf (regexFind "[0-9.]+" .) (get $units (regexFind "[a-z]+" .))) }}
{{- end }}
{{- ceil $seconds | printf "%.0f" }}
{{- end }}

{{/* The rules of the mode, and in mode automate those of the provider, for one scope: cluster or namespace. The right to
nominate is left out where nothing is nominated. */}}
{{- define "plimsoll.rules" -}}
{{- $rules := index (.root.Files.Get (printf "rights/%s.yaml" .root.Values.mode) | fromYaml) .scope }}
{{- if and (eq .root.Values.mode "automate") .root.Values.settings.provider }}
{{- $rules = concat $rules (index (.root.Files.Get (printf "rights/%s.yaml" .root.Values.settings.provider) | fromYaml) .scope) }}
{{- end }}
{{- $granted := list }}
{{- range $rules }}
{{- if not (and $.root.Values.settings.disableNomination (has "pods/status" .resources)) }}
{{- $granted = append $granted . }}
{{- end }}
{{- end }}
{{- toYaml $granted }}
{{- end }}

{{/* Settings of the provider aws, as environment. What is not set keeps the program's own default. */}}
{{- define "plimsoll.awsEnvironment" -}}
{{- $named := list .Values.settings.clusterName }}
{{- range .Values.controller.env }}
{{- $named = append $named (eq .name "CLUSTER_NAME") }}
{{- end }}
{{- if and (eq .Values.mode "automate") (not (compact $named)) }}
{{- fail "settings.provider=aws needs settings.clusterName" }}
{{- end }}
{{- $variables := dict
  "clusterName" "CLUSTER_NAME"
  "clusterEndpoint" "CLUSTER_ENDPOINT"
  "clusterCABundle" "CLUSTER_CA_BUNDLE"
  "vpcID" "VPC_ID"
  "interruptionQueue" "INTERRUPTION_QUEUE"
  "assumeRoleARN" "ASSUME_ROLE_ARN"
  "assumeRoleExternalID" "ASSUME_ROLE_EXTERNAL_ID"
  "assumeRoleDuration" "ASSUME_ROLE_DURATION"
  "isolatedVPC" "ISOLATED_VPC"
  "vmMemoryOverheadPercent" "VM_MEMORY_OVERHEAD_PERCENT"
  "reservedENIs" "RESERVED_ENIS"
  "prefixDelegation" "PREFIX_DELEGATION"
  "disableDryRun" "DISABLE_DRY_RUN"
  "amiRefreshInterval" "AMI_REFRESH_INTERVAL"
  "subnetRefreshInterval" "SUBNET_REFRESH_INTERVAL" }}
{{- range $setting, $variable := $variables }}
{{- $value := get $.Values.settings $setting | toString }}
{{- if $value }}
- name: {{ $variable }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
- name: FEATURE_GATES
  value: ReservedCapacity={{ .Values.settings.featureGates.reservedCapacity }}
{{- end }}
