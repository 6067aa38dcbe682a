"""Descriptions and examples of the API's fields and parameters, by name: the same name means the same everywhere.

`Model.field` comes before `field`. A description that a model gives its field itself comes before both.
"""

from typing import Any, NamedTuple


class Note(NamedTuple):
    """The description of a field, and a value of it."""

    description: str
    example: Any = None


_AT = "2026-11-24T09:30:00Z"
_EXECUTION = "63f3ad26d4119c0e8a1f27b05d6e43c2"
_REASON = "new tokenizer"

FIELDS: dict[str, Note] = {
    # Models without a text of their own.
    "Page": Note("A page of items"),
    "JsonValue": Note("Any JSON value"),
    # Ids and times.
    "id": Note("The id; chosen by the client, or made by the service", "keywords"),
    "program_id": Note("The id of the program", "keywords"),
    "session_id": Note("The id of the session; null or left out for what belongs to no session", "invoices-42"),
    "execution_id": Note("The id of the execution", _EXECUTION),
    "trace_id": Note("The id of its trace; null if it has none", "4bf92f3577b34da6a3ce929d0e0e4736"),
    "version": Note("The pool's version", "v2"),
    "pool_version": Note("The version", "v2"),
    "revision": Note("The number of the change; a greater one is newer", 3),
    "created_at": Note("The time of creation", _AT),
    "created_by": Note("The name of the key that made it; null if it is not known", "team-a"),
    "updated_at": Note("The time of the last change", _AT),
    "updated_by": Note("The name of the key, or the source, that made the last change", "ops"),
    "started_at": Note("The time at which a worker began; null before", _AT),
    "ended_at": Note("The time of the end; null before", _AT),
    "last_seen_at": Note("The time of the last call", _AT),
    "seen_at": Note("The time at which the replica last reported", _AT),
    "expires_at": Note("The time at which it is forgotten unless it is used", "2026-11-24T10:30:00Z"),
    "last_executed_at": Note("The begin of the last execution; null before the first", _AT),
    "since": Note("The time since which this holds", _AT),
    "at": Note("The time", _AT),
    "reason": Note("The reason, as the history shows it", _REASON),
    "by": Note("The name of the key, or the source, that made the last move", "ops"),
    # Pages.
    "items": Note("The items of this page"),
    "next_cursor": Note("The `cursor` of the next page; null on the last one"),
    "cursor": Note("`next_cursor` of the page before"),
    "limit": Note("The most items of a page"),
    "accept": Note("The format: Prometheus' text, or OpenMetrics"),
    # Programs.
    "name": Note("The name", "text"),
    "description": Note("A text for people, and for the language model of a DSPy program", "The text to look at"),
    "program_type": Note("The kind of program: code of one's own (`python`, `dspy`), or built by DSPy", "python"),
    "signature": Note("The inputs and outputs"),
    "entrypoint": Note("The code, as `module:function` or `module:Class`", "examples.text:keywords"),
    "instructions": Note("The instructions for the language model"),
    "idempotent": Note("True if the program may be run again if its worker dies"),
    "ApplyBody.programs": Note("The programs, each with its id"),
    "AppliedView.program": Note("The program after the request"),
    "has_state": Note("True if the program has a state, as DSPy's `save` writes it"),
    "tools": Note("The functions that the language model of a `react` program may call"),
    "timeout_s": Note("The longest deadline of its calls in seconds; null for the service's"),
    "max_concurrency": Note("The most calls of it that run at once in a pool; null for no limit"),
    "memory_mb": Note("The most memory of a worker that runs it, in MiB; null for no limit"),
    "metrics": Note("True if the program has metrics of its own"),
    "shadow": Note("True if shadow calls may run it although it is not idempotent"),
    "shared": Note("True if keys of other owners may change and delete it, too"),
    "metric": Note("The function that scores an output, as `module:function`; null for none"),
    "metric_range": Note("The lowest and the highest score that the metric gives; null if it is not known"),
    "number": Note("The difference of numbers that does not count", 0.01),
    "TextSimilarity.text": Note("The least similarity of texts, from 0 to 1", 0.9),
    "execution_count": Note("The executions so far", 17),
    "program_count": Note("The programs that belong to it", 2),
    "type": Note("The type of the value", "string"),
    "required": Note("True if it must be there"),
    "default": Note("The value if a call has none; null for none"),
    "schema": Note("A JSON Schema, draft 2020-12; null for none"),
    "inputs": Note("The inputs"),
    "outputs": Note("The outputs"),
    # Without fields: linters take a field in an example for a schema, since it has a `type` and a `default`.
    "SignatureView.inputs": Note("The inputs, in the order of the function's arguments", []),
    "SignatureView.outputs": Note("The outputs", []),
    "ExecuteBody.inputs": Note(
        "The inputs by name, as the program's signature has them", {"text": "One flag rolls back."}
    ),
    "ExecuteView.outputs": Note("The outputs by name", {"result": ["flag", "rolls", "back"]}),
    "ExecuteView.pool_version": Note("The version that ran it", "v2"),
    "BatchBody.inputs": Note("The inputs of each item, in order", [{"text": "One flag."}, {"text": "Nothing lost."}]),
    "definition": Note(
        "The definition of the program", {"program_type": "python", "entrypoint": "examples.text:keywords"}
    ),
    "prompt_tokens": Note("The tokens that it read", 128),
    "completion_tokens": Note("The tokens that it wrote", 32),
    # Jobs.
    "status": Note("The state", "succeeded"),
    "result": Note("The answer that a synchronous call would have had; null unless it succeeded"),
    "problem": Note("The problem that a synchronous call would have had; null unless it failed"),
    # Language models.
    "model": Note("The model, by LiteLLM's name; `local` is the service's own, `none` is none", "openai/gpt-5-mini"),
    "api_base": Note("The address of the model's endpoint; null for the provider's own", "http://127.0.0.1:11434/v1"),
    "api_key": Note("The key for the endpoint; never shown again", "sk-secret"),
    "has_api_key": Note("True if a key is set"),
    "temperature": Note("The sampling temperature; null for the model's own", 0.7),
    "max_tokens": Note("The most tokens of an answer; null for the model's own", 1000),
    "set_for": Note("The scope of the setting", "everyone"),
    # The rollout.
    "canary_percent": Note("The share of V2 in percent", 5.0),
    "shadow_percent": Note("The share of V1's calls that are copied to V2 in percent", 0.0),
    "from_percent": Note("The share of V2 before; null for the first revision", 1.0),
    "to_percent": Note("The share of V2 since", 5.0),
    "source": Note("The origin of the change", "api"),
    "steps": Note("The number of steps", 4),
    "Plan.steps": Note("The steps, upwards"),
    "Plan.name": Note("The name of the plan", "ramp"),
    "Plan.guardrails": Note("Guardrails that act otherwise than they usually do, or that promotion waits for, by name"),
    "action": Note("The consequence once the guardrail acts", "rollback"),
    "state": Note("The state"),
    "next": Note("The next thing that happens", "step 2 (5 %) after 10 min"),
    "verdict": Note("The judge's answer for now", "continue"),
    "guardrail": Note("The guardrail that decided; null if none did"),
    "asked_percent": Note("The share of V2 that is asked for", 5.0),
    "seen_percent": Note("The share of V2 that was seen; null before the first call", 5.1),
    "split": Note("The split asked for, and the one seen"),
    "replicas": Note("All replicas of the service"),
    "ReplicaView.id": Note("The id of the replica", "9f1c"),
    "silent": Note("Replicas that have said nothing for some seconds"),
    "is_silent": Note("True if the replica has said nothing for some seconds"),
    "v1": Note("V1's figure", 950),
    "v2": Note("V2's figure", 50),
    "GuardrailView.v1": Note("V1's calls"),
    "GuardrailView.v2": Note("V2's calls"),
    "GuardrailView.ratio": Note("The interval of V2's rate over V1's", [0.8, 1.9]),
    "GuardrailView.name": Note("The name of the guardrail", "engine"),
    "threshold": Note("The value of `log_e` at which the guardrail acts", 4.6),
    "ratio": Note("V2's rate over V1's", 2.0),
    "not_shown": Note("Programs that have not been shown to be as fast", ["summarize"]),
    "detectable": Note("The regression that would be found, and when"),
    "examples": Note("Executions whose faults are part of the evidence"),
    "calls": Note("The number of calls; null for never", 950),
    "faults": Note("The calls among them that were faults", 1),
    "seconds": Note("The time in seconds; null for never", 600.0),
    "code": Note("The code of the error", "worker_crashed"),
    "category": Note("The category of the error", "communication"),
    "evidence": Note("The evidence that the verdict was made on", {}),
    "counts": Note("Failed calls by code, the most frequent first"),
    # Shadow calls.
    "compared": Note("The calls that were compared", 400),
    "differing": Note("The calls whose outputs differ", 3),
    "shed": Note("The copies that were dropped", 0),
    "shed_reasons": Note("The copies that were dropped, by reason", {}),
    "fields": Note("A row for each output"),
    "quality": Note("The scores by the program's metric; null if it has none"),
    "v1_mean": Note("V1's mean score; null before the first", 0.91),
    "v2_mean": Note("V2's mean score; null before the first", 0.92),
    "v1_ms": Note("Mean time in the program on V1; shown, not judged", 12.5),
    "v2_ms": Note("Mean time in the program on V2; shown, not judged", 12.5),
    "pairs": Note("The calls that both versions were scored on", 400),
    "worse": Note("True on evidence that V2 is worse"),
    "odd": Note("The version whose value is the odd one, by output", {"result": "v2"}),
    "diff": Note("The lines that differ; null for others than admins"),
    "log_e": Note("Natural logarithm of the e-value", 0.4),
    # The migration.
    "phase": Note("The phase, as the facts have it", "rollout"),
    "checklist": Note("The items, each with its evidence"),
    "item": Note("The name of the item", "error_rate"),
    "how": Note("The command that gets it met; empty if nothing is to be done"),
    "validation": Note("The newest validation; null if none has run"),
    "before": Note("The validation before it; null if there is none"),
    "report": Note("The figures behind the items", {}),
    "note": Note("A text that goes with the confirmation", "read and agreed"),
    "day": Note("The day, in UTC", "2026-11-24"),
    # Pools.
    "ready": Note("True if it can serve", True),
    "Readiness.status": Note("The state in a word", "ready"),
    "missing": Note("The parts that are not there", []),
    "draining": Note("True once a shutdown has begun"),
    "pools": Note("Each pool, and if it can serve", {"v1": True, "v2": True}),
    "engine": Note("The engine", "session_pool_v2"),
    "preload": Note("The modules that are imported ahead of all workers", []),
    "DifferenceView.v1": Note("The value of V1; null if it is absent or unknown", "3.11.9"),
    "DifferenceView.v2": Note("The value of V2; null if it is absent or unknown", "3.13.1"),
    "what": Note("The part that differs", "python"),
    "changes": Note("The differences, except those of packages"),
    "packages": Note("The packages with their versions"),
    "failing": Note("The vital parts that a restart of the process would repair"),
    "size": Note("The number of worker slots", 4),
    "busy": Note("The calls that run", 1),
    "idle": Note("The workers that wait for a call", 3),
    "starting": Note("The workers that start", 0),
    "warm": Note("The workers that have loaded the programs which were used lately", 4),
    "stopping": Note("The workers that stop", 0),
    "queue_depth": Note("The calls that wait for a worker", 0),
    "utilization": Note("The busy workers as a share of all slots", 0.25),
    "totals": Note("Counts since the start of the service"),
    "ReloadView.at": Note("The time at which the workers were replaced"),
    "ReloadView.reason": Note("The reason that was given; null if none was", "the new prices"),
    "ReloadBody.reason": Note("The reason for the log and the pool's view", "the new prices"),
    "ReloadView.forced": Note("True if it was to go ahead whatever it breaks"),
    "BrokenProgramView.reason": Note(
        "The reason for which it cannot be loaded", "'shop' has no function or class 'price'"
    ),
    "workers": Note("A row for each worker"),
    "dispatched": Note("The calls that were given to a worker", 1000),
    "worker_starts": Note("The workers that were started", 4),
    "worker_exits": Note("The workers that have ended, by cause", {"recycled": 1}),
    "cpu_seconds": Note("The processor time in seconds; null if it cannot be read", 12.5),
    "pid": Note("The id of the process", 4242),
    "age_s": Note("The time since the start in seconds", 360.0),
    "executions": Note("The executions so far", 250),
    "rss_bytes": Note("The resident memory in bytes; null if it cannot be read", 41943040),
    "node": Note(
        "The node of a cluster, by its address and its id; null is the service's machine", "10.0.0.7/9f3c2a1b"
    ),
    "workers_on": Note("`local` for workers on the service's machine, `ray` for those of a cluster", "local"),
    "wished_size": Note("The workers that the settings ask for", 8),
    "open_fds": Note("The open files; null if they cannot be counted", 9),
    "WorkerView.state": Note("The state of the worker", "idle"),
    "WorkerView.program_id": Note("The program that it runs; null if it is idle"),
}


def note_of(model: str, name: str) -> Note | None:
    """Finds the note of a model's field, or of a parameter if `model` is empty.

    A model with another form for requests (`PlanBody`) has the notes of `Plan`.
    """
    forms = (model, model.removesuffix("Body"))
    return next((FIELDS[key] for key in (*(f"{form}.{name}" for form in forms), name) if key in FIELDS), None)
