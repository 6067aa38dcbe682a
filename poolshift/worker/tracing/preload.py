"""Imports OpenTelemetry ahead of all workers, in the zygote of a service that exports traces, if it is installed."""

import importlib

from poolshift.worker.tracing.optional import has_sdk

if has_sdk():
    importlib.import_module("poolshift.worker.tracing.program")
