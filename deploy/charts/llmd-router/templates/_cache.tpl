{{/* The cache manager: follows the workers' KV events, streams its index to the schedulers.
SPDX-License-Identifier: Apache-2.0 */}}
{{- define "llmd-router.cacheArgs" -}}
- cache
- --listen=0.0.0.0:8090
{{- include "llmd-router.discoveryArgs" . }}
- --kv-events-port=5556
- --kv-replay-port=5558
{{- with .Values.kvCacheManager.model }}
- --model={{ . }}
{{- end }}
- --insecure
{{- range $k, $v := .Values.kvCacheManager.flags }}
- {{ printf "--%s=%v" $k $v | quote }}
{{- end }}
{{- end }}

{{- define "llmd-router.cache" -}}
{{- $kv := .Values.kvCacheManager -}}
{{- $name := printf "%s-kv-cache" (include "llmd.fullname" .) -}}
{{- $c := dict "root" . "component" "kv-cache" "name" $name -}}
{{ include "llmd-router.rbac" $c }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  replicas: {{ $kv.replicas }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  template:
    metadata:
      labels: {{ include "llmd.labels" $c | nindent 8 }}
      {{- if .Values.router.monitoring.annotations }}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8090", prometheus.io/path: /metrics}
      {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ include "llmd.grace" $kv }}
      securityContext: {{ include "llmd.podSecurity" . | nindent 8 }}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets: {{ toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: kv-cache
          image: {{ include "llmd.image" (dict "image" $kv.image "root" .) }}
          imagePullPolicy: {{ $kv.image.pullPolicy | default "IfNotPresent" }}
          args: {{ include "llmd-router.cacheArgs" . | nindent 12 }}
          env: {{ include "llmd.podEnv" . | nindent 12 }}
          ports:
            - {name: http, containerPort: 8090}
          startupProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 1
            timeoutSeconds: 2
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: {path: /health/ready, port: http}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 3
          lifecycle: {{ include "llmd.preStop" $kv | nindent 12 }}
          securityContext: {{ include "llmd.containerSecurity" dict | nindent 12 }}
          resources: {{ include "llmd.resources" (dict "resources" $kv.resources) | nindent 12 }}
          volumeMounts: {{ include "llmd.writableMounts" . | nindent 12 }}
      volumes: {{ include "llmd.writableVolumes" . | nindent 8 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  selector: {{ include "llmd.selector" $c | nindent 4 }}
  ports:
    - {name: http, port: 8090, targetPort: http, protocol: TCP}
{{- if .Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  podSelector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports: [{port: http, protocol: TCP}]
      from:
        - podSelector:
            matchLabels: {{ include "llmd.selector" (dict "root" . "component" "scheduler") | nindent 14 }}
        - namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ .Values.networkPolicy.monitoringNamespace }}}
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (gt (int $kv.replicas) 1) }}
---
{{ include "llmd.pdb" (merge (dict "budget" (dict "maxUnavailable" 1)) $c) }}
{{- end }}
{{- if and .Values.router.monitoring.prometheus.enabled (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ $name }}
  labels: {{ include "llmd.labels" $c | nindent 4 }}
spec:
  selector:
    matchLabels: {{ include "llmd.selector" $c | nindent 6 }}
  endpoints:
    - {port: http, path: /metrics, interval: {{ .Values.router.monitoring.interval }}}
{{- end }}
{{- end }}
