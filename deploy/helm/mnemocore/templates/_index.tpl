{{/* The replicas of the index that share the spaces, by the names under which everybody knows them. */}}
{{- define "mnemocore.indexReplicas" -}}
{{- $index := .Values.services.index -}}
{{- range $number := until (int $index.replicas) -}}
{{- if $number }},{{ end -}}
{{ $.Release.Name }}-index-{{ $number }}.{{ $.Release.Name }}-index-replicas:{{ $index.port }}
{{- end -}}
{{- end -}}
