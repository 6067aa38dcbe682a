"""Grafana dashboards as code, their JSON beside it, and Prometheus rules (`make dashboards` writes the JSON)."""
