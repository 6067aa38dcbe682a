"""The service as its clients and its machine see it: HTTP, the process, its replicas."""

from grafana_foundation_sdk.builders import dashboard

from dashboards.frame import new_dashboard
from dashboards.panels import lines, number, row
from dashboards.queries import REPLICA, quantile, rate, selector, share, total

HTTP = "http_requests_total"
DURATION = "http_request_duration_seconds"
SERVER_ERRORS = 'status="5xx"'


def build() -> dashboard.Dashboard:
    """The dashboard *Service*."""
    built = new_dashboard("service", "Poolshift / Service", "HTTP by endpoint, and the replicas' own processes.")
    for part in (_now, _http, _process, _beside):
        part(built)
    return built


def _now(built: dashboard.Dashboard) -> None:
    built.with_row(row("Now")).with_panel(
        number(
            "Replicas", "That Prometheus reaches.", [(f"count({selector('poolshift_rollout_revision')})", "replicas")]
        )
    ).with_panel(number("Rate", "HTTP requests.", [(rate(HTTP, by="job"), "{{job}}")], unit="reqps")).with_panel(
        number(
            "Server errors",
            "Answers 5xx, of all.",
            [(share(rate(HTTP, SERVER_ERRORS, by="job"), rate(HTTP, by="job")), "{{job}}")],
            unit="percentunit",
            decimals=2,
            warn_at=0.001,
            alarm_at=0.01,
        )
    ).with_panel(
        number("p95", "Of all requests.", [(quantile(0.95, DURATION, by="job"), "{{job}}")], unit="s")
    ).with_panel(
        number(
            "Youngest replica",
            "How long ago the last start was.",
            [(f"min(time() - {selector('process_start_time_seconds')})", "age")],
            unit="s",
            decimals=0,
            sparkline=False,
        )
    ).with_panel(
        number(
            "Drain ends in",
            "On the replica that is nearest to DRAIN_TIMEOUT_S, while one shuts down.",
            [(f"min({selector('poolshift_drain_seconds_left')} >= -Inf)", "seconds left")],
            unit="s",
            sparkline=False,
        )
    )


def _http(built: dashboard.Dashboard) -> None:
    built.with_row(row("HTTP")).with_panel(
        lines(
            "Rate by endpoint",
            "All requests but scrapes.",
            [(rate(HTTP, by="method, handler"), "{{method}} {{handler}}")],
            unit="reqps",
        )
    ).with_panel(
        lines(
            "Answers by status",
            "5xx is ours, 4xx the client's.",
            [(rate(HTTP, by="status"), "{{status}}")],
            unit="reqps",
        )
    ).with_panel(
        lines(
            "Server errors by endpoint",
            "Answers 5xx, of all at this endpoint.",
            [
                (
                    share(rate(HTTP, SERVER_ERRORS, by="method, handler"), rate(HTTP, by="method, handler")),
                    "{{method}} {{handler}}",
                )
            ],
            unit="percentunit",
        )
    ).with_panel(
        lines(
            "p50, p95, p99 of executions",
            "From the request to the end of the answer.",
            [
                (quantile(phi, DURATION, 'handler="/programs/{program_id}/execute"', by="job"), f"{{{{job}}}} {name}")
                for name, phi in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            ],
            unit="s",
        )
    ).with_panel(
        lines(
            "p95 by endpoint",
            "From the request to the end of the answer.",
            [(quantile(0.95, DURATION, by="method, handler"), "{{method}} {{handler}}")],
            unit="s",
        )
    ).with_panel(
        lines(
            "Bytes",
            "Bodies in and out.",
            [
                (f"sum({rate('http_request_size_bytes_sum', by='job')})", "in"),
                (f"sum({rate('http_response_size_bytes_sum', by='job')})", "out"),
            ],
            unit="Bps",
        )
    )


def _process(built: dashboard.Dashboard) -> None:
    built.with_row(row("The process of each replica, without its workers")).with_panel(
        lines(
            "Processor",
            "Cores. The event loop is one thread: near 1 it is the bottleneck.",
            [(rate("process_cpu_seconds_total", by="instance, replica"), REPLICA)],
            unit="none",
        )
    ).with_panel(
        lines("Memory", "Resident.", [(selector("process_resident_memory_bytes"), REPLICA)], unit="bytes")
    ).with_panel(
        lines(
            "Open files, of those allowed",
            "Connections count. At 1 no more are accepted.",
            [(f"{selector('process_open_fds')} / {selector('process_max_fds')}", REPLICA)],
            unit="percentunit",
        )
    ).with_panel(
        lines(
            "Replicas by state",
            "Of all machines. One that dies is replaced within seconds; silent is one that gives no sign of life.",
            [(total("poolshift_replicas", by="state"), "{{state}}")],
            width=24,
            stepped=True,
        )
    )


def _beside(built: dashboard.Dashboard) -> None:
    built.with_row(row("Language models and traces")).with_panel(
        lines(
            "Tokens",
            "What DSPy programs use, those of failed calls too: the cost of a version, by model.",
            [
                (
                    rate("poolshift_lm_tokens_total", by="pool_version, model, kind"),
                    "{{pool_version}} {{model}} {{kind}}",
                )
            ],
            unit="ops",
            width=12,
        )
    ).with_panel(
        lines(
            "Cost of 1,000 calls",
            "Cost of tokens in US dollars, or in the unit of LM_PRICES; a model without a price has no line.",
            [
                (
                    f"1000 * {rate('poolshift_lm_cost_total', by='pool_version, model')} / "
                    f"clamp_min({rate('poolshift_lm_executions_total', by='pool_version, model')}, 1e-9)",
                    "{{pool_version}} {{model}}",
                )
            ],
            unit="none",
            width=12,
        )
    ).with_panel(
        lines(
            "Spans by what became of them",
            "failed: the collector did not take them; dropped: the export's queue was full. Calls are none the slower.",
            [(rate("poolshift_trace_spans_total", by="outcome"), "{{outcome}}")],
            unit="ops",
            width=24,
        )
    )
