"""The names of spans and of their attributes, all in one place; what has a semantic convention has its name.

The HTTP ones are of `opentelemetry.semconv`; the session's id is left out on purpose, since clients choose it.
"""

from typing import Final

ROUTE: Final = "route"
QUEUE: Final = "queue"
RUN: Final = "run"
PROGRAM: Final = "program"

ERROR_TYPE: Final = "error.type"
EXECUTION_ID: Final = "execution.id"
POOL_VERSION: Final = "pool.version"
PROCESS_PID: Final = "process.pid"
PROGRAM_DROPPED_SPANS: Final = "program.dropped_spans"
PROGRAM_ID: Final = "program.id"
ROLLOUT_REVISION: Final = "rollout.revision"
ROUTING_REASON: Final = "routing.reason"
