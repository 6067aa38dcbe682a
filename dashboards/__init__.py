"""Grafana dashboards as code, of which `make dashboards` makes the JSON, and Prometheus rules."""
