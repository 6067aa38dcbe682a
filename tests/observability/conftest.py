"""One service per version that samples everything, for the tests that leave it as it was."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.observability.collector import Collector, running_collector
from tests.support.service import PROGRAM_MODULES, Service, running_service

MODULES = f"{PROGRAM_MODULES},tests.observability.programs"
PROGRAMS = "tests.observability.programs"


@pytest.fixture(scope="package")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="package")
def traced_service(version: str, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Every call is sampled, unless its traceparent says otherwise."""
    settings = traced(collector, POOL_VERSION=version, LOG_FORMAT="json")
    with running_service(tmp_path_factory.mktemp(f"traced-{version}"), **settings) as service:
        yield service


def traced(collector: Collector, **settings: Any) -> dict[str, Any]:
    """The settings of a service that sends every trace to `collector`, soon."""
    return {
        "PROGRAM_MODULES": MODULES,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        **settings,
    }


def log_lines(service: Service, **fields: Any) -> list[dict[str, Any]]:
    """The lines of a JSON log that have these fields, without one that is still being written."""
    written, _, _ = service.log().rpartition("\n")
    lines = [json.loads(line) for line in written.splitlines()]
    return [line for line in lines if fields.items() <= line.items()]
