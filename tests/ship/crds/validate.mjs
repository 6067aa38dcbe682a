// Validates the custom resources on standard input (a JSON array) against the schemas of their projects.
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { readFileSync } from "node:fs";

const KINDS = { HTTPRoute, PrometheusRule, ServiceMonitor };

for (const { apiVersion, kind, ...rest } of JSON.parse(readFileSync(0, "utf8"))) {
  const resource = new KINDS[kind](rest);
  if (resource.apiVersion !== apiVersion) throw new Error(`${kind} of ${apiVersion}, not ${resource.apiVersion}`);
  resource.validate();
}
