{{/* What every chart shares: names, labels, security contexts, volumes, probes.
Each takes a context: the root ($) or a dict with its keys. SPDX-License-Identifier: Apache-2.0 */}}

{{- define "llmd.fullname" -}}
{{- $v := .Values.fullnameOverride | default .Release.Name -}}
{{- $v | trunc 45 | trimSuffix "-" -}}
{{- end }}

{{/* (dict "root" $ "component" "scheduler") */}}
{{- define "llmd.selector" -}}
app.kubernetes.io/name: llmd
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "llmd.labels" -}}
{{ include "llmd.selector" . }}
app.kubernetes.io/part-of: llm-d
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* a model's name as a label's value: / becomes -, at most 63 characters */}}
{{- define "llmd.labelSafe" -}}
{{- regexReplaceAll "[^A-Za-z0-9._-]" . "-" | trunc 63 | trimAll "-_." -}}
{{- end }}

{{/* (dict "image" {registry,repository,tag} "root" $) */}}
{{- define "llmd.image" -}}
{{- if kindIs "string" .image -}}{{ .image }}
{{- else -}}
{{- with .image.registry }}{{ . }}/{{ end }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion -}}
{{- end -}}
{{- end }}

{{- define "llmd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* a dict: capabilities (list), may be empty */}}
{{- define "llmd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
  {{- with .capabilities }}
  add: {{ toJson . }}
  {{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "llmd.podEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: HOME
  value: /cache
- name: XDG_CACHE_HOME
  value: /cache
{{- end }}

{{/* (dict "tracing" {...} "service" NAME): OpenTelemetry's variables */}}
{{- define "llmd.otelEnv" -}}
- name: OTEL_SERVICE_NAME
  value: {{ .service }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .tracing.otelExporterEndpoint | quote }}
- name: OTEL_TRACES_EXPORTER
  value: otlp
- name: OTEL_TRACES_SAMPLER
  value: {{ .tracing.sampling.sampler }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .tracing.sampling.samplerArg | quote }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(POD_NAMESPACE),k8s.node.name=$(NODE_NAME),k8s.pod.name=$(POD_NAME)
{{- end }}

{{- define "llmd.writableMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
{{- end }}

{{- define "llmd.writableVolumes" -}}
- name: tmp
  emptyDir: {}
- name: cache
  emptyDir: {}
{{- end }}

{{/* the graceful end of a pod: (dict "shutdown" {preStopSeconds, timeoutSeconds}) */}}
{{- define "llmd.preStop" -}}
preStop:
  exec:
    command: [/usr/bin/llmd, prestop, --seconds, {{ .shutdown.preStopSeconds | toString | quote }}]
{{- end }}

{{- define "llmd.grace" -}}
{{- add .shutdown.preStopSeconds .shutdown.timeoutSeconds 10 -}}
{{- end }}

{{- define "llmd.spread" -}}
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{ include "llmd.selector" . | nindent 6 }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{ include "llmd.selector" . | nindent 6 }}
{{- end }}

{{/* (dict "root" $ "component" C "name" N "replicas" R "budget" {minAvailable|maxUnavailable}).
None for one replica: it would block every node's drain. */}}
{{- define "llmd.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels: {{ include "llmd.labels" . | nindent 4 }}
spec:
  {{- toYaml .budget | nindent 2 }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{ include "llmd.selector" . | nindent 6 }}
{{- end }}

{{/* (list ROOT (dict OLD NEW ...)): keys of other charts and former versions fail with the new name */}}
{{- define "llmd.legacy" -}}
{{- $values := index . 0 -}}
{{- range $old, $new := index . 1 -}}
{{- $at := $values -}}{{- $found := true -}}
{{- range splitList "." $old -}}
{{- if and $found (kindIs "map" $at) (hasKey $at .) -}}{{- $at = index $at . -}}{{- else -}}{{- $found = false -}}{{- end -}}
{{- end -}}
{{- if $found -}}{{- fail (printf "value %s is not used here: %s" $old $new) -}}{{- end -}}
{{- end -}}
{{- end }}

{{/* CPU, memory limits and extended resources: (dict "resources" {...} "extra" {name: count}) */}}
{{- define "llmd.resources" -}}
{{- $r := deepCopy (.resources | default dict) -}}
{{- range $name, $count := .extra | default dict -}}
{{- $_ := set $r "limits" (merge (dict $name $count) ($r.limits | default dict)) -}}
{{- $_ := set $r "requests" (merge (dict $name $count) ($r.requests | default dict)) -}}
{{- end -}}
{{- toYaml $r -}}
{{- end }}
