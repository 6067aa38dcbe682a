"""Runs programs on worker processes: pool protocol, engines, the worker's two ends. Knows no HTTP and no canary."""
