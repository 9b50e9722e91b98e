{{- define "llmd.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "llmd.guide" -}}
{{- default (include "llmd.name" .) .Values.guide -}}
{{- end -}}

{{- define "llmd.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: llm-d
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* What selects the workers: never a version or a chart, as selectors cannot be changed. */}}
{{- define "llmd.workerSelector" -}}
llm-d.ai/guide: {{ include "llmd.guide" . }}
llm-d.ai/inference-serving: "true"
{{- end -}}

{{- define "llmd.image" -}}
{{- $i := merge (deepCopy (default dict .image)) .root.Values.image -}}
{{- printf "%s/%s:%s" $i.registry $i.repository (default .root.Chart.AppVersion $i.tag) -}}
{{- end -}}

{{- define "llmd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "llmd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "llmd.selectorFlags" -}}
{{- if .Values.inferencePool.create }}
- --pool-name={{ include "llmd.guide" . }}
{{- else }}
- --endpoint-selector=llm-d.ai/guide={{ include "llmd.guide" . }},llm-d.ai/inference-serving=true
- --endpoint-target-ports={{ .Values.workerDefaults.port }}
{{- end }}
{{- end -}}

{{- define "llmd.modelVolume" -}}
{{- if .Values.model.volume }}
- name: models
  {{- toYaml .Values.model.volume | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "llmd.modelMount" -}}
{{- if .Values.model.volume }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end -}}

{{/* Keys of older charts fail with what to write instead. */}}
{{- define "llmd.legacy" -}}
{{- $advice := dict "router" "scheduler" "epp" "scheduler" "inferenceExtension" "scheduler" "kvCacheManager" "cache" "modelArtifacts" "model.path and model.volume" "prefill" "workers.prefill" "decode" "workers.decode" "routing" "inferencePool and scheduler" "sampleApplication" "workers" "vllm" "workers.NAME.engine: vllm" -}}
{{- range $old, $new := $advice -}}
{{- if hasKey $.Values $old -}}
{{- fail (printf "the value %q is not of this chart: write %s instead" $old $new) -}}
{{- end -}}
{{- end -}}
{{- end -}}
