{{- define "poolshift.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Of its own, so that the Service does not send calls to the pod of `helm test`. */}}
{{- define "poolshift.testName" -}}
{{- include "poolshift.name" . | trunc 58 | trimSuffix "-" }}-test
{{- end -}}

{{/* 52, so that what is appended to it (a dashboard's name, -headless, …) still fits into the 63 of a label. */}}
{{- define "poolshift.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "poolshift.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "poolshift.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "poolshift.selectorLabels" -}}
app.kubernetes.io/name: {{ include "poolshift.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "poolshift.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "poolshift.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "poolshift.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "poolshift.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "poolshift.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* A value as an environment variable has it: a number without exponent, which Helm's quote would give it. */}}
{{- define "poolshift.env" -}}
{{- if kindIs "string" . }}{{ . | quote }}{{ else }}{{ . | toJson | quote }}{{ end -}}
{{- end -}}

{{- define "poolshift.isShared" -}}
{{- if or .Values.database.url .Values.database.existingSecret }}true{{ end -}}
{{- end -}}

{{- define "poolshift.hasSecret" -}}
{{- $v := .Values -}}
{{- $keys := and $v.auth.keys (not $v.auth.existingSecret) -}}
{{- $database := and $v.database.url (not $v.database.existingSecret) -}}
{{- if or $keys $database (and $v.lm.apiKey (not $v.lm.existingSecret)) }}true{{ end -}}
{{- end -}}

{{- define "poolshift.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.maxReplicas }}{{ else }}{{ .Values.replicaCount }}{{ end -}}
{{- end -}}

{{/* The whole cores of a pod: its limit, or what it requests. 0 for a quantity that is neither like 4, 4.5 nor 4500m. */}}
{{- define "poolshift.cores" -}}
{{- $limits := .Values.resources.limits | default dict -}}
{{- $requests := .Values.resources.requests | default dict -}}
{{- $cpu := coalesce $limits.cpu $requests.cpu 0 | toString -}}
{{- $number := regexFind "^[0-9]+" $cpu | int -}}
{{- if regexMatch "^[0-9]+m$" $cpu -}}{{ div $number 1000 }}{{- else if regexMatch "^[0-9]+([.][0-9]*)?$" $cpu -}}{{ $number }}{{- else -}}0{{- end -}}
{{- end -}}

{{/* WEB_CONCURRENCY: one replica for each two cores, since a trivial call takes the service and a worker about as long,
     and no more than workers of either pool: each replica needs one. */}}
{{- define "poolshift.webConcurrency" -}}
{{- if .Values.config.WEB_CONCURRENCY -}}
{{- .Values.config.WEB_CONCURRENCY -}}
{{- else -}}
{{- $smaller := .Values.pools.v2.size -}}
{{- if ne (.Values.config.POOLS | default "v1,v2") "v2" -}}
{{- $smaller = min $smaller .Values.pools.v1.size -}}
{{- end -}}
{{- min (div (include "poolshift.cores" .) 2) $smaller 64 | max 1 -}}
{{- end -}}
{{- end -}}

{{/* The whole end of a pod: calls that still come in, the drain, and 10 s to close what is open and end the workers. */}}
{{- define "poolshift.gracePeriodSeconds" -}}
{{- $drain := .Values.config.DRAIN_TIMEOUT_S | default 30 | ceil | int -}}
{{- add .Values.preStopSleepSeconds $drain 10 -}}
{{- end -}}

{{/* What values.schema.json cannot say. */}}
{{- define "poolshift.validate" -}}
{{- $v := .Values -}}
{{- if not (or $v.auth.existingSecret $v.auth.keys $v.auth.allowAnonymous) -}}
{{- fail "auth: say who may call: auth.existingSecret or auth.keys (poolshift keys create), or auth.allowAnonymous=true if everyone may" -}}
{{- end -}}
{{- if and $v.auth.allowAnonymous (or $v.auth.existingSecret $v.auth.keys) -}}
{{- fail "auth: allowAnonymous=true and keys contradict each other" -}}
{{- end -}}
{{- if and (gt (include "poolshift.maxReplicas" . | int) 1) (not (include "poolshift.isShared" .)) -}}
{{- fail (printf "database: %s replicas need PostgreSQL (database.url or database.existingSecret): SQLite is a file that one pod has" (include "poolshift.maxReplicas" .)) -}}
{{- end -}}
{{- if and (has "ray" (list $v.config.WORKERS $v.config.V1_WORKERS $v.config.V2_WORKERS)) (not $v.ray.address) -}}
{{- fail "ray: workers on a Ray cluster need the address of its head (ray.address)" -}}
{{- end -}}
{{- if and $v.ray.address $v.networkPolicy.enabled (not $v.ray.peers) -}}
{{- fail "ray.peers: networkPolicy.enabled cuts the pods off from the Ray cluster; name its pods" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling: minReplicas is above maxReplicas" -}}
{{- end -}}
{{- if and $v.persistence.enabled (include "poolshift.isShared" .) -}}
{{- fail "persistence: with PostgreSQL the pods keep nothing; persistence.enabled is for SQLite" -}}
{{- end -}}
{{- $monitor := $v.metrics.serviceMonitor -}}
{{- if gt (include "poolshift.milliseconds" $monitor.scrapeTimeout | int) (include "poolshift.milliseconds" $monitor.interval | int) -}}
{{- fail "metrics.serviceMonitor: scrapeTimeout is above interval, and the operator would not take it" -}}
{{- end -}}
{{- $own := list "HOST" "PORT" "ALLOW_ANONYMOUS" "API_KEYS_FILE" "CANARY_PERCENT" "ROLLOUT_FILE" "ROLLOUT_PLAN_FILE" "V1_POOL_SIZE" "V2_POOL_SIZE" "WEB_CONCURRENCY" "DATABASE_URL" "LM_MODEL" "LM_API_BASE" "LM_API_KEY" "RAY_ADDRESS" -}}
{{- range $v.extraEnv -}}
{{- if or (has .name $own) (hasKey $v.config .name) -}}
{{- fail (printf "extraEnv: %s has a value of its own in this chart" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of a duration as the schema allows it: 500ms, 15s, 1m. */}}
{{- define "poolshift.milliseconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- if hasSuffix "ms" . -}}{{ $number }}{{- else if hasSuffix "s" . -}}{{ mul $number 1000 }}{{- else -}}{{ mul $number 60000 }}{{- end -}}
{{- end -}}

{{- define "poolshift.databaseEnv" -}}
{{- if .Values.database.existingSecret }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.existingSecretKey }}
{{- else if .Values.database.url }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "poolshift.fullname" . }}
      key: DATABASE_URL
{{- end }}
{{- end -}}

{{/* The service's settings but for the database. */}}
{{- define "poolshift.settingsEnv" -}}
- name: HOST
  value: "0.0.0.0"
- name: PORT
  value: "8000"
{{- if .Values.auth.allowAnonymous }}
- name: ALLOW_ANONYMOUS
  value: "true"
{{- else }}
- name: API_KEYS_FILE
  value: /etc/poolshift/auth/api-keys.yaml
{{- end }}
{{- if not (kindIs "invalid" .Values.canary.percent) }}
- name: CANARY_PERCENT
  value: {{ include "poolshift.env" .Values.canary.percent }}
{{- end }}
{{- if .Values.canary.file.enabled }}
- name: ROLLOUT_FILE
  value: /etc/poolshift/rollout/rollout.yaml
{{- end }}
{{- if .Values.canary.plan }}
- name: ROLLOUT_PLAN_FILE
  value: /etc/poolshift/rollout/plan.yaml
{{- end }}
- name: V1_POOL_SIZE
  value: {{ include "poolshift.env" .Values.pools.v1.size }}
- name: V2_POOL_SIZE
  value: {{ include "poolshift.env" .Values.pools.v2.size }}
{{- if and (not .Values.config.WEB_CONCURRENCY) (gt (include "poolshift.webConcurrency" . | int) 1) }}
- name: WEB_CONCURRENCY
  value: {{ include "poolshift.webConcurrency" . | quote }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $name }}
  value: {{ include "poolshift.env" $value }}
{{- end }}
{{- end }}
{{- with .Values.ray.address }}
- name: RAY_ADDRESS
  value: {{ . | quote }}
{{- with $.Values.ray.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- with .Values.lm }}
{{- if .model }}
- name: LM_MODEL
  value: {{ .model | quote }}
{{- end }}
{{- if .apiBase }}
- name: LM_API_BASE
  value: {{ .apiBase | quote }}
{{- end }}
{{- if or .existingSecret .apiKey }}
- name: LM_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret | default (include "poolshift.fullname" $) }}
      key: {{ ternary .existingSecretKey "LM_API_KEY" (ne .existingSecret "") }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "poolshift.volumeMounts" -}}
- name: state
  mountPath: /var/lib/poolshift
- name: tmp
  mountPath: /tmp
{{- if not .Values.auth.allowAnonymous }}
- name: auth
  mountPath: /etc/poolshift/auth
  readOnly: true
{{- end }}
{{- if or .Values.canary.file.enabled .Values.canary.plan }}
- name: rollout
  mountPath: /etc/poolshift/rollout
  readOnly: true
{{- end }}
{{- if .Values.ray.address }}
{{- with .Values.ray.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
