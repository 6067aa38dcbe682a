"""Dashboards, rules and the metrics' reference, against the real service, Prometheus and Alertmanager."""
