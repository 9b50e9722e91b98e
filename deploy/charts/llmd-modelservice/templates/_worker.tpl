{{/* Worker pods.  Most templates take (dict "root" $ "role" "prefill"|"decode").
SPDX-License-Identifier: Apache-2.0 */}}
{{- define "llmd-modelservice.legacy" -}}
{{- include "llmd.legacy" (list .Values (dict
  "sampleApplication" "write modelArtifacts, prefill and decode"
  "modelArtifacts.artifact" "it is called modelArtifacts.uri"
  "routing.modelName" "write modelArtifacts.name"
  "routing.inferencePool" "the pool belongs to llmd-router: router.inferencePool"
  "routing.httpRoute" "the route belongs to llmd-router: httpRoute"
  "inferencePool" "the pool belongs to llmd-router: router.inferencePool"
  "vllm" "write image, and prefill and decode"
  "accelerator.dra" "write prefill.resourceClaims and decode.resourceClaims")) -}}
{{- end }}

{{- define "llmd-modelservice.modelPath" -}}
{{- $uri := .Values.modelArtifacts.uri -}}
{{- if hasPrefix "file://" $uri -}}{{ trimPrefix "file://" $uri }}
{{- else if hasPrefix "pvc://" $uri -}}{{ .Values.modelArtifacts.mountPath }}/{{ join "/" (rest (splitList "/" (trimPrefix "pvc://" $uri))) }}
{{- else if hasPrefix "hf://" $uri -}}{{ trimPrefix "hf://" $uri }}
{{- else if contains "://" $uri -}}{{- fail (printf "modelArtifacts.uri %s: write file:///PATH, pvc://CLAIM/PATH, hf://NAME or a name of llmd model list" $uri) -}}
{{- else -}}{{ required "modelArtifacts.uri must say which model: file:///PATH, pvc://CLAIM/PATH, hf://NAME or a name of llmd model list" $uri }}
{{- end -}}
{{- end }}

{{/* decode alone serves whole requests */}}
{{- define "llmd-modelservice.label" -}}
{{- if eq .role "prefill" -}}prefill
{{- else if .root.Values.prefill.create -}}decode
{{- else -}}prefill-decode
{{- end -}}
{{- end }}

{{- define "llmd-modelservice.poolLabels" -}}
llm-d.ai/inference-serving: "true"
llm-d.ai/role: {{ include "llmd-modelservice.label" . }}
llm-d.ai/engine-type: {{ .root.Values.engineType }}
llm-d.ai/accelerator-variant: {{ .root.Values.accelerator.type }}
{{- with .root.Values.modelArtifacts.name }}
llm-d.ai/model: {{ include "llmd.labelSafe" . }}
{{- end }}
{{- with .root.Values.modelArtifacts.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llmd-modelservice.args" -}}
{{- $v := .root.Values -}}
{{- $label := include "llmd-modelservice.label" . -}}
- worker
- --model={{ include "llmd-modelservice.modelPath" .root }}
{{- with $v.modelArtifacts.name }}
- --served-model-name={{ . }}
{{- end }}
- --role={{ ternary "both" $label (eq $label "prefill-decode") }}
- --host=$(POD_IP)
- --port={{ $v.routing.servicePort }}
- --kv-transfer-port=5600
- {{ printf "--kv-events-config=%s" (dict "enable_kv_cache_events" true "endpoint" "tcp://*:5556" "replay_endpoint" "tcp://*:5558" | toJson) | squote }}
- --block-size={{ $v.blockSize }}
- --hash-seed={{ $v.hashSeed }}
- --shutdown-timeout={{ $v.shutdown.timeoutSeconds }}
{{- if $v.kvCacheMemoryBytes }}
- --kv-cache-memory-bytes={{ int64 $v.kvCacheMemoryBytes }}
{{- end }}
{{- if $v.maxModelLen }}
- --max-model-len={{ int64 $v.maxModelLen }}
{{- end }}
- --insecure
{{- range $k, $x := merge dict (index $v .role).flags $v.flags }}
- {{ printf "--%s=%v" $k $x | quote }}
{{- end }}
{{- end }}

{{/* the command and arguments of another engine, or of a container that a values file describes */}}
{{- define "llmd-modelservice.command" -}}
{{- $c := first ((index .root.Values .role).containers | default list) | default dict -}}
{{- $how := $c.modelCommand | default (ternary "vllmServe" "llmd" (eq .root.Values.engineType "vllm")) -}}
{{- if eq $how "llmd" }}
args:
  {{- include "llmd-modelservice.args" . | nindent 2 }}
  {{- range $c.args }}
  - {{ . | quote }}
  {{- end }}
{{- else if eq $how "vllmServe" }}
command: [vllm, serve]
args:
  - {{ include "llmd-modelservice.modelPath" .root }}
  - --port
  - {{ .root.Values.routing.servicePort | toString | quote }}
  {{- with .root.Values.modelArtifacts.name }}
  - --served-model-name
  - {{ . | quote }}
  {{- end }}
  {{- range $c.args }}
  - {{ . | quote }}
  {{- end }}
{{- else }}
{{- with $c.command }}
command: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $c.args }}
args: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* alive: the process answers, also while it loads.  ready: it takes requests.  startup: the time a
load may take before readiness is judged by its own threshold. */}}
{{- define "llmd-modelservice.probes" -}}
{{- $ready := ternary "/health/ready" "/v1/models" (eq .root.Values.engineType "llmd") -}}
startupProbe:
  httpGet: {path: {{ $ready }}, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ div (int .root.Values.startupSeconds) 2 }}
livenessProbe:
  httpGet: {path: /health, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: {{ $ready }}, port: http}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}

{{- define "llmd-modelservice.env" -}}
{{- $v := .root.Values -}}
{{ include "llmd.podEnv" . }}
- name: VLLM_NIXL_SIDE_CHANNEL_HOST
  value: $(POD_IP)
- name: VLLM_NIXL_SIDE_CHANNEL_PORT
  value: "5600"
- name: HF_HOME
  value: /cache/huggingface
{{- if hasPrefix "hf://" $v.modelArtifacts.uri }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ $v.modelArtifacts.authSecretName | default "llm-d-hf-token" }}, key: HF_TOKEN, optional: true}
{{- end }}
{{- if and $v.rdma.enabled $v.rdma.devices }}
- name: UCX_NET_DEVICES
  value: {{ $v.rdma.devices | quote }}
{{- end }}
{{- if $v.tracing.enabled }}
{{ include "llmd.otelEnv" (dict "tracing" $v.tracing "service" (printf "vllm-%s" .role)) }}
{{- end }}
{{- with $v.accelerator.env }}
{{ toYaml . }}
{{- end }}
{{- with (index $v .role).env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "llmd-modelservice.extraResources" -}}
{{- $v := .root.Values -}}{{- $r := index $v .role -}}{{- $x := dict -}}
{{- if gt (int $r.accelerators) 0 -}}
{{- $name := required (printf "accelerator.resources must name the resource of type %s" $v.accelerator.type) (index $v.accelerator.resources $v.accelerator.type) -}}
{{- $_ := set $x $name (int $r.accelerators | toString) -}}
{{- end -}}
{{- if $v.rdma.enabled -}}{{- $_ := set $x $v.rdma.resource ($v.rdma.count | toString) -}}{{- end -}}
{{- toJson $x -}}
{{- end }}

{{- define "llmd-modelservice.container" -}}
{{- $v := .root.Values -}}{{- $r := index $v .role -}}
{{- $c := first ($r.containers | default list) | default dict -}}
{{- $caps := list -}}
{{- if $v.rdma.enabled -}}{{- $caps = concat (list "IPC_LOCK") $v.rdma.extraCapabilities -}}{{- end -}}
name: modelserver
image: {{ include "llmd.image" (dict "image" ($c.image | default $v.image) "root" .root) }}
imagePullPolicy: {{ $c.imagePullPolicy | default $v.image.pullPolicy }}
{{- include "llmd-modelservice.command" . }}
env:
  {{- include "llmd-modelservice.env" . | nindent 2 }}
  {{- with $c.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: http, containerPort: {{ $v.routing.servicePort }}}
  - {name: kv-events, containerPort: 5556}
  - {name: kv-replay, containerPort: 5558}
  - {name: kvx, containerPort: 5600}
{{ include "llmd-modelservice.probes" . }}
{{- if eq $v.engineType "llmd" }}
lifecycle: {{ include "llmd.preStop" $v | nindent 2 }}
{{- else }}
lifecycle:
  preStop:
    exec: {command: [sleep, {{ $v.shutdown.preStopSeconds | toString | quote }}]}
{{- end }}
securityContext: {{ include "llmd.containerSecurity" (dict "capabilities" $caps) | nindent 2 }}
resources: {{ include "llmd.resources" (dict "resources" ($c.resources | default $r.resources) "extra" (include "llmd-modelservice.extraResources" . | fromJson)) | nindent 2 }}
volumeMounts:
  {{- include "llmd.writableMounts" . | nindent 2 }}
  - {name: shm, mountPath: /dev/shm}
  {{- if hasPrefix "pvc://" $v.modelArtifacts.uri }}
  - {name: model, mountPath: {{ $v.modelArtifacts.mountPath }}, readOnly: {{ $v.modelArtifacts.readOnly }}}
  {{- end }}
  {{- range concat ($r.volumeMounts | default list) ($c.volumeMounts | default list) }}
  - {{ toJson . }}
  {{- end }}
{{- end }}

{{- define "llmd-modelservice.podSpec" -}}
{{- $v := .root.Values -}}{{- $r := index $v .role -}}
serviceAccountName: {{ $v.serviceAccountOverride | default (printf "%s-worker" (include "llmd.fullname" .root)) }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $r.terminationGracePeriodSeconds | default (include "llmd.grace" $v) }}
securityContext: {{ include "llmd.podSecurity" . | nindent 2 }}
{{- range $key := list "schedulerName" "runtimeClassName" "priorityClassName" }}
{{- with index $r $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "resourceClaims" "initContainers" }}
{{- with index $r $key }}
{{ $key }}: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $v.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $r.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- if $v.topologySpread }}
topologySpreadConstraints: {{ include "llmd.spread" (dict "root" .root "component" .role) | nindent 2 }}
{{- end }}
containers:
  -{{ include "llmd-modelservice.container" . | indent 4 | trimPrefix "   " }}
  {{- range rest ($r.containers | default list) }}
  - {{ toJson . }}
  {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: cache
    emptyDir: {sizeLimit: {{ $v.modelArtifacts.size }}}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: 1Gi}
  {{- if hasPrefix "pvc://" $v.modelArtifacts.uri }}
  - name: model
    persistentVolumeClaim: {claimName: {{ first (splitList "/" (trimPrefix "pvc://" $v.modelArtifacts.uri)) }}, readOnly: {{ $v.modelArtifacts.readOnly }}}
  {{- end }}
  {{- with $r.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "llmd-modelservice.podTemplate" -}}
{{- $v := .root.Values -}}{{- $r := index $v .role -}}
metadata:
  labels:
    {{- include "llmd.labels" (dict "root" .root "component" .role) | nindent 4 }}
    {{- include "llmd-modelservice.poolLabels" . | nindent 4 }}
  annotations:
    llm-d.ai/model-name: {{ $v.modelArtifacts.name | quote }}
    {{- if $v.monitoring.annotations }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ $v.routing.servicePort | quote }}
    prometheus.io/path: /metrics
    {{- end }}
    {{- if and $v.rdma.enabled $v.rdma.networks }}
    k8s.v1.cni.cncf.io/networks: {{ $v.rdma.networks | quote }}
    {{- end }}
    {{- with $r.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec: {{ include "llmd-modelservice.podSpec" . | nindent 2 }}
{{- end }}

{{- define "llmd-modelservice.workload" -}}
{{- $v := .root.Values -}}{{- $r := index $v .role -}}
{{- $c := dict "root" .root "component" .role -}}
{{- $name := printf "%s-%s" (include "llmd.fullname" .root) .role -}}
{{- if $v.multinode -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: {{ $name }}
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  {{- if not $r.autoscaling.enabled }}
  replicas: {{ $r.replicas }}
  {{- end }}
  leaderWorkerTemplate:
    size: {{ $r.parallelism.workers }}
    restartPolicy: RecreateGroupOnPodRestart
    workerTemplate: {{ include "llmd-modelservice.podTemplate" . | nindent 6 }}
{{- else -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "llmd.labels" $c | nindent 4 }}
    {{- include "llmd-modelservice.poolLabels" . | nindent 4 }}
spec:
  {{- if not $r.autoscaling.enabled }}
  replicas: {{ $r.replicas }}
  {{- end }}
  strategy: {{ toYaml $r.strategy | nindent 4 }}
  progressDeadlineSeconds: {{ add (int $v.startupSeconds) 300 }}
  selector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  template: {{ include "llmd-modelservice.podTemplate" . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "llmd-modelservice.networkPolicy" -}}
{{- $v := .root.Values -}}
{{- $c := dict "root" .root "component" .role -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "llmd.fullname" .root }}-{{ .role }}
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports: [{port: http, protocol: TCP}]
      from:
        - podSelector:
            matchLabels: {app.kubernetes.io/name: llmd, app.kubernetes.io/component: scheduler}
        - podSelector:
            matchLabels: {llm-d.ai/inference-serving: "true"}
        - namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ $v.networkPolicy.monitoringNamespace }}}
    - ports: [{port: kv-events, protocol: TCP}, {port: kv-replay, protocol: TCP}]
      from:
        - podSelector:
            matchLabels: {app.kubernetes.io/name: llmd, app.kubernetes.io/component: kv-cache}
        - podSelector:
            matchLabels: {app.kubernetes.io/name: llmd, app.kubernetes.io/component: scheduler}
    - ports: [{port: kvx, protocol: TCP}]
      from:
        - podSelector:
            matchLabels: {llm-d.ai/inference-serving: "true"}
{{- end }}

{{- define "llmd-modelservice.podMonitor" -}}
{{- $c := dict "root" .root "component" .role -}}
{{- $m := (index .root.Values .role).monitoring.podmonitor -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "llmd.fullname" .root }}-{{ .role }}
  labels:
    {{- include "llmd.labels" $c | nindent 4 }}
    {{- with $m.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  podMetricsEndpoints:
    - {port: http, path: /metrics, interval: {{ $m.interval }}}
{{- end }}

{{- define "llmd-modelservice.all" -}}
{{- $root := . -}}
{{- include "llmd-modelservice.legacy" . -}}
{{- if and .Values.prefill.create (not .Values.decode.create) -}}
{{- fail "prefill.create needs decode.create: prefill workers only compute prompts" -}}
{{- end -}}
{{- if not .Values.serviceAccountOverride }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "llmd.fullname" . }}-worker
  labels: {{ include "llmd.labels" (dict "root" . "component" "worker") | nindent 4 }}
automountServiceAccountToken: false
{{- end }}
{{- range $role := list "prefill" "decode" }}
{{- $r := index $root.Values $role }}
{{- if $r.create }}
{{- $x := dict "root" $root "role" $role }}
---
{{ include "llmd-modelservice.workload" $x }}
{{- if and $root.Values.podDisruptionBudget.enabled (gt (int $r.replicas) 1) }}
---
{{ include "llmd.pdb" (dict "root" $root "component" $role "name" (printf "%s-%s" (include "llmd.fullname" $root) $role) "budget" (dict "maxUnavailable" 1)) }}
{{- end }}
{{- if $root.Values.networkPolicy.enabled }}
---
{{ include "llmd-modelservice.networkPolicy" $x }}
{{- end }}
{{- if and $r.monitoring.podmonitor.enabled ($root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}
---
{{ include "llmd-modelservice.podMonitor" $x }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.extraObjects }}
---
{{ toYaml . }}
{{- end }}
{{- end }}
