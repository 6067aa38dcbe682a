"""Poolshift that counts nothing per call and traces nothing: what observability costs is the difference to it.

The service has no such switch, since nobody should run it so.

    python -m bench.unobserved
"""

from prometheus_client import CollectorRegistry

from app.application import create_app
from app.logs import configure_logs
from app.opening import telemetry
from app.server import Server
from config.settings import load_settings
from routing.telemetry.http_metrics import HandlerMetrics, HttpMetrics
from routing.telemetry.recorder import Recorder
from routing.versions import Decision, Version


class SilentRecorder(Recorder):
    """Counts no call."""

    def decided(self, decision: Decision) -> None:
        pass

    def answered(
        self,
        version: Version,
        operation: str,
        outcome: str,
        seconds: float,
        queued_s: float,
        trace_id: str | None = None,
    ) -> None:
        pass


class SilentHandlerMetrics(HandlerMetrics):
    """Counts no answer."""

    def __init__(self) -> None:
        """Has nothing to count with."""

    def answered(self, status: int, seconds: float, received: int, sent: int) -> None:
        pass


class SilentHttpMetrics(HttpMetrics):
    """Hands out what counts nothing."""

    def of(self, method: str, handler: str) -> HandlerMetrics:
        return SilentHandlerMetrics()


def main() -> None:
    """`poolshift serve`, in silence."""
    settings = load_settings()
    configure_logs(settings.log_format)
    app = create_app(settings)
    app.state.http_metrics = SilentHttpMetrics(CollectorRegistry())
    vars(telemetry)["Recorder"] = SilentRecorder  # the one place that makes a recorder takes this one
    Server(app, settings).run()


if __name__ == "__main__":
    main()
