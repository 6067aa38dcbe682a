"""Opens what counts and traces calls."""

import functools
import uuid

from opentelemetry.semconv.attributes.service_attributes import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION
from prometheus_client import CollectorRegistry

from app.opening.opening import Opening
from app.problem_kinds import KINDS
from app.version import VERSION
from config.settings import Settings
from routing.rollout.flag import RolloutFlag
from routing.router import Router
from routing.telemetry.call_trace import CallTrace
from routing.telemetry.recorder import Recorder
from routing.telemetry.span_export import SpanExport
from routing.telemetry.spans import Export
from routing.telemetry.tracing import Sampling, Tracing
from routing.versions import Version
from store.follower import Follower


def open_recorder(registry: CollectorRegistry, settings: Settings) -> Recorder:
    """Makes the recorder on the application's registry."""
    categories = {code: kind.category for code, kind in KINDS.items()}
    versions = tuple(Version) if settings.has_v1 else (Version.V2,)
    return Recorder(registry, categories, settings.program_metrics_limit, versions)


def open_tracing(opening: Opening) -> Tracing:
    """Opens the sampling of calls, and the export of sampled calls if the settings name a collector."""
    settings, export = opening.settings, None
    if settings.exports_traces:
        who = {SERVICE_NAME: "poolshift", SERVICE_VERSION: VERSION, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
        how = Export(
            endpoint=settings.traces_endpoint,
            resource=who,
            max_queue_size=settings.otel_bsp_max_queue_size,
            max_batch_size=settings.otel_bsp_max_export_batch_size,
            interval_ms=settings.otel_bsp_schedule_delay,
        )
        export = SpanExport(how, opening.recorder.spans, opening.background)
        opening.at_end(export.aclose)
    sampling = Sampling.named(settings.otel_traces_sampler, settings.otel_traces_sampler_arg)
    return Tracing(sampling, None if export is None else functools.partial(CallTrace, export), export)


def watch_rollout(recorder: Recorder, follower: Follower | None, router: Router, flag: RolloutFlag) -> None:
    """Has the metrics ask, at each scrape, how the rollout is on this replica."""
    recorder.watch(
        staleness=lambda: follower.staleness_s if follower is not None else 0.0,
        rollback=lambda: router.rollback_seconds,
        is_cut_off=lambda: flag.is_cut_off,
    )
