"""The names of spans and of their attributes, all in one place; what has a semantic convention has its name.

The HTTP ones are of `opentelemetry.semconv`; the session's id is left out on purpose, since clients choose it.
"""

from typing import Final

ROUTE: Final = "route"
QUEUE: Final = "queue"
RUN: Final = "run"
PROGRAM: Final = "program"
SHADOW: Final = "shadow"
"""The root of a shadow call's trace, linked to the call that it copies."""

CHAT: Final = "chat"
"""A call of an LM; its model follows in the name."""

ERROR_TYPE: Final = "error.type"
EXECUTION_ID: Final = "execution.id"
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_MODEL: Final = "gen_ai.request.model"
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
POOL_VERSION: Final = "pool.version"
PROCESS_PID: Final = "process.pid"
PROGRAM_DROPPED_SPANS: Final = "program.dropped_spans"
PROGRAM_ID: Final = "program.id"
ROLLOUT_REVISION: Final = "rollout.revision"
ROUTING_REASON: Final = "routing.reason"
