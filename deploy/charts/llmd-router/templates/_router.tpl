{{/* Every object of the scheduler.  The umbrella chart renders them with values of its own.
SPDX-License-Identifier: Apache-2.0 */}}
{{- define "llmd-router.legacy" -}}
{{- include "llmd.legacy" (list .Values (dict
  "inferenceExtension" "it is called router.epp now"
  "inferencePool" "it is called router.inferencePool and router.modelServers now"
  "experimentalHttpRoute" "it is called httpRoute now"
  "router.sidecar" "workers of llmd need no sidecar; a proxy's settings are router.proxy"
  "router.epp.image.hub" "write router.epp.image.registry"
  "gateway" "write httpRoute and provider")) -}}
{{- end }}

{{- define "llmd-router.pool" -}}
{{- .Values.router.inferencePool.name | default (include "llmd.fullname" .) -}}
{{- end }}

{{- define "llmd-router.match" -}}
{{- toYaml (.Values.router.modelServers.matchLabels | default (dict "llm-d.ai/inference-serving" "true")) -}}
{{- end }}

{{- define "llmd-router.ports" -}}
{{- $m := .Values.router.modelServers -}}
{{- if $m.targetPortNumber -}}{{ int $m.targetPortNumber }}{{- else -}}{{- range $i, $p := $m.targetPorts -}}{{ if $i }},{{ end }}{{ kindIs "map" $p | ternary (get (kindIs "map" $p | ternary $p dict) "number") $p }}{{- end -}}{{- end -}}
{{- end }}

{{- define "llmd-router.usesPool" -}}
{{- if or .Values.router.inferencePool.create (eq .Values.router.mode "gateway") }}true{{ end -}}
{{- end }}

{{/* by the value, or by llm-d's flag */}}
{{- define "llmd-router.elects" -}}
{{- $epp := .Values.router.epp -}}
{{- if or $epp.leaderElection (eq (get $epp.flags "ha-enable-leader-election" | toString) "true") }}true{{ end -}}
{{- end }}

{{- define "llmd-router.cacheAddress" -}}
{{- if .Values.router.cache -}}{{ .Values.router.cache }}
{{- else if eq .Values.kvCacheManager.mode "service" -}}{{ include "llmd.fullname" . }}-kv-cache:8090
{{- end -}}
{{- end }}

{{/* which pods: a pool's, or those of a selector */}}
{{- define "llmd-router.discoveryArgs" -}}
{{- if include "llmd-router.usesPool" . }}
- --pool-name={{ include "llmd-router.pool" . }}
- --pool-namespace=$(NAMESPACE)
- --pool-group={{ .Values.router.inferencePool.group }}
{{- else }}
{{- $pairs := list }}
{{- range $k, $v := include "llmd-router.match" . | fromYaml }}{{ $pairs = append $pairs (printf "%s=%s" $k $v) }}{{ end }}
- {{ printf "--endpoint-selector=%s" (join "," $pairs) | quote }}
- {{ printf "--endpoint-target-ports=%s" (include "llmd-router.ports" .) | quote }}
{{- end }}
{{- end }}

{{- define "llmd-router.args" -}}
- scheduler
- --listen=0.0.0.0:8081
{{- with .Values.router.epp.metricsPort }}
- --metrics-port={{ . }}
{{- end }}
{{- if eq .Values.router.mode "gateway" }}
- --grpc-port={{ .Values.router.epp.extProcPort }}
- --grpc-health-port={{ .Values.router.epp.grpcHealthPort }}
{{- end }}
{{- include "llmd-router.discoveryArgs" . }}
{{- with include "llmd-router.cacheAddress" . }}
- --cache={{ . }}
{{- end }}
{{- with .Values.router.epp.model }}
- --model={{ . }}
{{- end }}
{{- with .Values.router.epp.pluginsConfigFile }}
- --config-file=/etc/llmd/config/{{ . }}
{{- end }}
{{- if include "llmd-router.elects" . }}
- --ha-enable-leader-election
{{- end }}
- --loops=0
{{- with .Values.router.epp.wakeSeconds }}
- --wait-ms={{ mul . 1000 }}
{{- end }}
- --shutdown-timeout={{ .Values.router.epp.shutdown.timeoutSeconds }}
{{- if .Values.router.auth.apiKeySecret }}
- --api-key-file=/etc/llmd/api-keys/api-keys
{{- end }}
{{- if .Values.router.auth.adminKeySecret }}
- --admin-key-file=/etc/llmd/admin-keys/admin-keys
{{- end }}
{{- if .Values.router.tls.secretName }}
- --tls-dir=/etc/llmd/tls
{{- end }}
{{- if not (and .Values.router.tls.secretName .Values.router.auth.apiKeySecret) }}
- --insecure
{{- end }}
{{- if .Values.router.secureServing.enabled }}
- --secure-serving
{{- if .Values.router.secureServing.secretName }}
- --cert-path=/etc/llmd/ext-proc-tls
{{- end }}
{{- end }}
{{- if .Values.router.tracing.enabled }}
- --otlp-endpoint={{ .Values.router.tracing.otelExporterEndpoint }}
- --trace-ratio={{ .Values.router.tracing.sampling.samplerArg }}
{{- end }}
{{- range $k, $v := omit .Values.router.epp.flags "ha-enable-leader-election" }}
- {{ printf "--%s=%v" $k $v | quote }}
{{- end }}
{{- end }}

{{- define "llmd-router.config" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "llmd.fullname" . }}-epp
  labels: {{ include "llmd.labels" (dict "root" . "component" "scheduler") | nindent 4 }}
data:
  {{- range $file, $text := .Values.router.epp.pluginsCustomConfig }}
  {{ $file }}: {{ if kindIs "string" $text }}{{ $text | toJson }}{{ else }}{{ toYaml $text | toJson }}{{ end }}
  {{- end }}
{{- end }}

{{- define "llmd-router.secretMounts" -}}
{{- if .Values.router.auth.apiKeySecret }}
- {name: api-keys, mountPath: /etc/llmd/api-keys, readOnly: true}
{{- end }}
{{- if .Values.router.auth.adminKeySecret }}
- {name: admin-keys, mountPath: /etc/llmd/admin-keys, readOnly: true}
{{- end }}
{{- if .Values.router.tls.secretName }}
- {name: tls, mountPath: /etc/llmd/tls, readOnly: true}
{{- end }}
{{- if .Values.router.secureServing.secretName }}
- {name: ext-proc-tls, mountPath: /etc/llmd/ext-proc-tls, readOnly: true}
{{- end }}
{{- if .Values.router.epp.pluginsCustomConfig }}
- {name: config, mountPath: /etc/llmd/config, readOnly: true}
{{- end }}
{{- end }}

{{- define "llmd-router.secretVolumes" -}}
{{- with .Values.router.auth.apiKeySecret }}
- name: api-keys
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- with .Values.router.auth.adminKeySecret }}
- name: admin-keys
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- with .Values.router.tls.secretName }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- with .Values.router.secureServing.secretName }}
- name: ext-proc-tls
  secret: {secretName: {{ . }}, defaultMode: 288}
{{- end }}
{{- if .Values.router.epp.pluginsCustomConfig }}
- name: config
  configMap: {name: {{ include "llmd.fullname" . }}-epp}
{{- end }}
{{- end }}

{{/* alive: its loops run.  ready: a worker is in rotation and it is not draining. */}}
{{- define "llmd-router.probes" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (ne .Values.router.tls.secretName "") -}}
startupProbe:
  httpGet: {path: /health, port: http, scheme: {{ $scheme }}}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health, port: http, scheme: {{ $scheme }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: {{ ternary "/readyz" "/health/ready" (gt (int .Values.router.epp.wakeSeconds) 0) }}, port: http, scheme: {{ $scheme }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{- define "llmd-router.deployment" -}}
{{- $c := dict "root" . "component" "scheduler" -}}
{{- $epp := .Values.router.epp -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "llmd.fullname" . }}-epp
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  {{- if not .Values.autoscaling.enabled }}
  replicas: {{ $epp.replicas }}
  {{- end }}
  strategy:
    {{- if include "llmd-router.elects" . }}
    type: Recreate
    {{- else }}
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
    {{- end }}
  selector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "llmd.labels" $c | nindent 8 }}
        llm-d.ai/igw-mode: llm-d-router-{{ .Values.router.mode }}
      annotations:
        {{- if .Values.router.monitoring.annotations }}
        prometheus.io/scrape: "true"
        prometheus.io/port: {{ $epp.metricsPort | default 8081 | quote }}
        prometheus.io/path: /metrics
        {{- end }}
        checksum/config: {{ toJson $epp.pluginsCustomConfig | sha256sum }}
        {{- with $epp.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "llmd.fullname" . }}-epp
      automountServiceAccountToken: true
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ include "llmd.grace" $epp }}
      securityContext: {{ include "llmd.podSecurity" . | nindent 8 }}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $epp.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $epp.nodeSelector }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $epp.affinity }}
      affinity: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $epp.tolerations }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- if .Values.topologySpread }}
      topologySpreadConstraints: {{ include "llmd.spread" $c | nindent 8 }}
      {{- end }}
      containers:
        - name: epp
          image: {{ include "llmd.image" (dict "image" $epp.image "root" .) }}
          imagePullPolicy: {{ $epp.image.pullPolicy | default "IfNotPresent" }}
          args: {{ include "llmd-router.args" . | nindent 12 }}
          env:
            {{- include "llmd.podEnv" . | nindent 12 }}
            {{- if .Values.router.tracing.enabled }}
            {{- include "llmd.otelEnv" (dict "tracing" .Values.router.tracing "service" "llm-d-router/epp") | nindent 12 }}
            {{- end }}
            {{- with $epp.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - {name: http, containerPort: 8081}
            {{- with $epp.metricsPort }}
            - {name: http-metrics, containerPort: {{ . }}}
            {{- end }}
            {{- if eq .Values.router.mode "gateway" }}
            - {name: grpc-ext-proc, containerPort: {{ $epp.extProcPort }}}
            - {name: grpc-health, containerPort: {{ $epp.grpcHealthPort }}}
            {{- end }}
          {{- include "llmd-router.probes" . | nindent 10 }}
          lifecycle: {{ include "llmd.preStop" $epp | nindent 12 }}
          securityContext: {{ include "llmd.containerSecurity" dict | nindent 12 }}
          resources: {{ include "llmd.resources" (dict "resources" $epp.resources) | nindent 12 }}
          volumeMounts:
            {{- include "llmd.writableMounts" . | nindent 12 }}
            {{- include "llmd-router.secretMounts" . | nindent 12 }}
            {{- with $epp.volumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "llmd.writableVolumes" . | nindent 8 }}
        {{- include "llmd-router.secretVolumes" . | nindent 8 }}
        {{- with $epp.volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{- define "llmd-router.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "llmd.fullname" . }}-epp
  labels: {{ include "llmd.labels" (dict "root" . "component" "scheduler") | nindent 4 }}
  {{- with .Values.router.service.annotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .Values.router.service.type }}
  selector: {{ include "llmd.selector" (dict "root" . "component" "scheduler") | nindent 4 }}
  ports:
    - {name: http, port: {{ .Values.router.service.port }}, targetPort: http, protocol: TCP}
    - {name: http-metrics, port: {{ .Values.router.epp.metricsPort | default 9090 }}, targetPort: {{ ternary "http-metrics" "http" (gt (int .Values.router.epp.metricsPort) 0) }}, protocol: TCP}
    {{- if eq .Values.router.mode "gateway" }}
    - name: grpc-ext-proc
      port: {{ .Values.router.epp.extProcPort }}
      targetPort: grpc-ext-proc
      protocol: TCP
      appProtocol: kubernetes.io/h2c
    - {name: grpc-health, port: {{ .Values.router.epp.grpcHealthPort }}, targetPort: grpc-health, protocol: TCP}
    {{- end }}
{{- end }}

{{/* (dict "root" $ "name" N "component" C): account, role and binding of what watches pods */}}
{{- define "llmd-router.rbac" -}}
{{- $l := include "llmd.labels" . -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  labels: {{ $l | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  labels: {{ $l | nindent 4 }}
rules:
  - {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
  - {apiGroups: [inference.networking.k8s.io], resources: [inferencepools], verbs: [get, list, watch]}
  {{- if eq .component "scheduler" }}
  - apiGroups: [llm-d.ai, inference.networking.x-k8s.io]
    resources: [inferenceobjectives, inferencemodelrewrites]
    verbs: [get, list, watch]
  {{- if include "llmd-router.elects" .root }}
  - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, list, watch, create, update]}
  {{- end }}
  {{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  labels: {{ $l | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name }}}
subjects:
  - {kind: ServiceAccount, name: {{ .name }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}

{{- define "llmd-router.poolObjects" -}}
{{- $l := include "llmd.labels" (dict "root" . "component" "scheduler") -}}
{{- $pool := include "llmd-router.pool" . -}}
{{- if include "llmd-router.usesPool" . }}
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: {{ $pool }}
  labels: {{ $l | nindent 4 }}
spec:
  selector:
    matchLabels: {{ include "llmd-router.match" . | nindent 6 }}
  targetPorts:
    {{- range splitList "," (include "llmd-router.ports" .) }}
    - number: {{ . }}
    {{- end }}
  endpointPickerRef:
    group: ""
    kind: Service
    name: {{ include "llmd.fullname" . }}-epp
    port: {number: {{ .Values.router.epp.extProcPort }}}
    failureMode: {{ .Values.router.inferencePool.failureMode }}
{{- range .Values.router.inferenceObjectives }}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata:
  name: {{ .name }}
  labels: {{ $l | nindent 4 }}
spec:
  priority: {{ .priority | default 0 }}
  poolRef: {group: inference.networking.k8s.io, kind: InferencePool, name: {{ $pool }}}
{{- end }}
{{- range .Values.router.modelRewrites }}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata:
  name: {{ .name }}
  labels: {{ $l | nindent 4 }}
spec:
  poolRef: {group: inference.networking.k8s.io, kind: InferencePool, name: {{ $pool }}}
  rules: {{ toYaml .rules | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "llmd-router.gatewayObjects" -}}
{{- $l := include "llmd.labels" (dict "root" . "component" "scheduler") -}}
{{- if and (eq .Values.router.mode "gateway") .Values.httpRoute.create }}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ include "llmd.fullname" . }}
  labels: {{ $l | nindent 4 }}
spec:
  parentRefs:
    - group: gateway.networking.k8s.io
      kind: Gateway
      name: {{ .Values.httpRoute.inferenceGatewayName }}
      {{- with .Values.httpRoute.inferenceGatewayNamespace }}
      namespace: {{ . }}
      {{- end }}
  rules:
    - matches:
        - path: {type: PathPrefix, value: /}
          {{- with .Values.httpRoute.headerMatches }}
          headers: {{ toYaml . | nindent 12 }}
          {{- end }}
      backendRefs:
        - group: inference.networking.k8s.io
          kind: InferencePool
          name: {{ include "llmd-router.pool" . }}
      timeouts: {request: {{ .Values.httpRoute.requestTimeout }}}
{{- end }}
{{- if and (eq .Values.router.mode "gateway") (eq .Values.provider.name "istio") }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: {{ include "llmd.fullname" . }}-epp
  labels: {{ $l | nindent 4 }}
spec:
  host: {{ include "llmd.fullname" . }}-epp.{{ .Release.Namespace }}.svc.cluster.local
  trafficPolicy:
    tls:
      {{- if .Values.router.secureServing.enabled }}
      mode: SIMPLE
      insecureSkipVerify: true
      {{- else }}
      mode: DISABLE
      {{- end }}
{{- end }}
{{- end }}

{{- define "llmd-router.networkPolicy" -}}
{{- $c := dict "root" . "component" "scheduler" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "llmd.fullname" . }}-epp
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports:
        - {port: http, protocol: TCP}
        {{- if eq .Values.router.mode "gateway" }}
        - {port: grpc-ext-proc, protocol: TCP}
        - {port: grpc-health, protocol: TCP}
        {{- end }}
      from: {{ toYaml (.Values.networkPolicy.clients | default (list (dict "podSelector" dict))) | nindent 8 }}
    - ports:
        - {port: {{ ternary "http-metrics" "http" (gt (int .Values.router.epp.metricsPort) 0) }}, protocol: TCP}
      from:
        - namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.monitoringNamespace }}}
{{- end }}

{{- define "llmd-router.monitor" -}}
{{- $c := dict "root" . "component" "scheduler" -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "llmd.fullname" . }}-epp-monitor
  labels:
    {{- include "llmd.labels" $c | nindent 4 }}
    {{- with .Values.router.monitoring.prometheus.extraLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  endpoints:
    - {port: http-metrics, path: /metrics, interval: {{ .Values.router.monitoring.interval }}}
{{- end }}

{{/* requests running on the scheduler, by the custom metrics API */}}
{{- define "llmd-router.hpa" -}}
{{- $c := dict "root" . "component" "scheduler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "llmd.fullname" . }}-epp
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ include "llmd.fullname" . }}-epp}
  minReplicas: {{ .Values.autoscaling.min }}
  maxReplicas: {{ .Values.autoscaling.max }}
  metrics:
    - type: Pods
      pods:
        metric: {name: llm_d_epp_request_running}
        target: {type: AverageValue, averageValue: {{ .Values.autoscaling.runningPerReplica | quote }}}
{{- end }}

{{- define "llmd-router.all" -}}
{{- include "llmd-router.legacy" . -}}
{{- if and (include "llmd-router.elects" .) .Values.autoscaling.enabled -}}
{{- fail "autoscaling.enabled makes more schedulers, of which router.epp.leaderElection lets one work: choose one of them" -}}
{{- end -}}
{{- $c := dict "root" . "component" "scheduler" "name" (printf "%s-epp" (include "llmd.fullname" .)) -}}
{{- if and .Values.router.epp.pluginsConfigFile (not (hasKey .Values.router.epp.pluginsCustomConfig .Values.router.epp.pluginsConfigFile)) -}}
{{- fail (printf "router.epp.pluginsConfigFile names %s, which router.epp.pluginsCustomConfig does not have" .Values.router.epp.pluginsConfigFile) -}}
{{- end -}}
{{ include "llmd-router.rbac" $c }}
---
{{ include "llmd-router.deployment" . }}
---
{{ include "llmd-router.service" . }}
{{- if .Values.router.epp.pluginsCustomConfig }}
---
{{ include "llmd-router.config" . }}
{{- end }}
---
{{- include "llmd-router.poolObjects" . }}
---
{{- include "llmd-router.gatewayObjects" . }}
{{- if .Values.networkPolicy.enabled }}
---
{{ include "llmd-router.networkPolicy" . }}
{{- end }}
{{- /* of replicas with a leader one is ready: a budget would never let it go */}}
{{- if and .Values.podDisruptionBudget.enabled (gt (int .Values.router.epp.replicas) 1) (not (include "llmd-router.elects" .)) }}
---
{{ include "llmd.pdb" (merge (dict "budget" (dict "minAvailable" 1)) $c) }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
---
{{ include "llmd-router.hpa" . }}
{{- end }}
{{- if and .Values.router.monitoring.prometheus.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}
---
{{ include "llmd-router.monitor" . }}
{{- end }}
{{- if eq .Values.kvCacheManager.mode "service" }}
---
{{ include "llmd-router.cache" . }}
{{- end }}
{{- end }}
