"""Traces, logs and exemplars, on a real service with a real OTLP receiver."""
