{{/* Derives the values of the two charts below from the dozen here.  SPDX-License-Identifier: Apache-2.0 */}}
{{- define "llmd.poolMatch" -}}
{llm-d.ai/inference-serving: "true", llm-d.ai/guide: {{ .Release.Name }}}
{{- end }}

{{- define "llmd.image.dict" -}}
{{ toJson (dict "registry" .Values.images.registry "repository" .Values.images.repository "tag" .Values.images.tag "pullPolicy" .Values.images.pullPolicy) }}
{{- end }}

{{- define "llmd.routerValues" -}}
{{- $image := include "llmd.image.dict" . | fromJson -}}
{{- $local := or (hasPrefix "file://" .Values.model.uri) (not (contains "://" .Values.model.uri)) -}}
router:
  mode: {{ ternary "gateway" "standalone" .Values.gateway.enabled }}
  epp:
    image: {{ toJson $image }}
    {{- if $local }}
    model: {{ trimPrefix "file://" .Values.model.uri }}
    {{- end }}
  modelServers:
    matchLabels: {{ include "llmd.poolMatch" . }}
  auth: {{ toJson .Values.auth }}
  tls: {{ toJson .Values.tls }}
  monitoring:
    prometheus: {enabled: {{ .Values.monitoring.enabled }}}
  {{- with .Values.tracing.endpoint }}
  tracing: {enabled: true, otelExporterEndpoint: {{ . | quote }}}
  {{- end }}
kvCacheManager:
  mode: {{ .Values.kvCacheManager.mode }}
  image: {{ toJson $image }}
  model: {{ .Values.model.name }}
{{- if .Values.gateway.enabled }}
httpRoute:
  create: true
  inferenceGatewayName: {{ .Values.gateway.name }}
  inferenceGatewayNamespace: {{ .Values.gateway.namespace | quote }}
{{- end }}
networkPolicy: {{ toJson .Values.networkPolicy }}
{{- end }}

{{- define "llmd.role" -}}
{{- $r := .root.Values.resources -}}
replicas: {{ .replicas }}
accelerators: {{ $r.gpu }}
resources:
  requests: {cpu: {{ $r.cpu | quote }}, memory: {{ $r.memory | quote }}}
  limits: {memory: {{ $r.memoryLimit | quote }}}
monitoring: {podmonitor: {enabled: {{ .root.Values.monitoring.enabled }}}}
{{- end }}

{{- define "llmd.modelserviceValues" -}}
image: {{ include "llmd.image.dict" . }}
modelArtifacts:
  uri: {{ .Values.model.uri }}
  name: {{ .Values.model.name }}
  labels: {llm-d.ai/guide: {{ .Release.Name }}}
kvCacheMemoryBytes: {{ .Values.kvCacheMemoryBytes }}
accelerator:
  type: {{ ternary "gpu" "cpu" (gt (int .Values.resources.gpu) 0) }}
  resources: {gpu: {{ .Values.resources.gpuResource }}}
rdma: {{ toJson .Values.rdma }}
prefill:
  create: {{ gt (int .Values.prefill.replicas) 0 }}
  {{- include "llmd.role" (dict "root" . "replicas" .Values.prefill.replicas) | nindent 2 }}
decode:
  create: true
  autoscaling: {enabled: {{ .Values.autoscaling.enabled }}}
  {{- include "llmd.role" (dict "root" . "replicas" .Values.decode.replicas) | nindent 2 }}
{{- with .Values.tracing.endpoint }}
tracing: {enabled: true, otelExporterEndpoint: {{ . | quote }}}
{{- end }}
networkPolicy: {{ toJson .Values.networkPolicy }}
{{- end }}

{{/* (dict "root" $ "chart" NAME "values" TEXT): a context of the chart below with the derived values */}}
{{- define "llmd.legacyKeys" -}}
{{- include "llmd.legacy" (list .Values (dict
  "sampleApplication" "write model, prefill and decode"
  "inferenceExtension" "write llmd-router.router.epp"
  "inferencePool" "write llmd-router.router.inferencePool"
  "experimentalHttpRoute" "write gateway.enabled"
  "modelservice" "write llmd-modelservice"
  "router" "write llmd-router.router"
  "redis" "the cache manager is llmd's own: kvCacheManager"
  "prefill.enabled" "write prefill.replicas: 0 for aggregated serving"
  "modelArtifacts" "write model.uri and model.name")) -}}
{{- end }}
