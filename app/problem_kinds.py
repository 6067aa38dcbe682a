"""Kinds of problems: the status of each code, and the text that its page and docs/errors.md have.

`python -m tools.errors_page` writes the table of docs/errors.md again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pools.errors import Category


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One row of the taxonomy. Texts are Markdown of one line, with code and links alone."""

    status: int
    category: Category
    title: str
    when: str
    remedy: str
    """The advice to a caller."""
    retry_safe: bool = True
    """For a program that is not `idempotent`; for one that is, every error of an execution may be sent again."""
    headers: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "invalid_request": Kind(
        status=422,
        category="request",
        title="The request is malformed",
        when=(
            "the body or a parameter is malformed, or the body is announced as anything but JSON (execute does "
            "not look at that); `detail` says where"
        ),
        remedy="mend the request",
    ),
    "payload_too_large": Kind(
        status=413,
        category="request",
        title="The request's body is too large",
        when="the body is over `MAX_BODY_BYTES`; the rest of it, up to 64 MiB for up to 30 s, is dropped, and the "
        "connection ends",
        remedy="send less, or have the limit raised",
        headers=("Connection",),
    ),
    "unauthorized": Kind(
        status=401,
        category="request",
        title="An API key is needed",
        when="no API key, or one that is not known",
        remedy="send a key",
        headers=("WWW-Authenticate",),
    ),
    "forbidden": Kind(
        status=403,
        category="request",
        title="This API key does not allow that",
        when="the key lacks the scope: `execute`, `observe`, `operate` or `admin`",
        remedy="use a key that has it",
    ),
    "forbidden_host": Kind(
        status=403,
        category="request",
        title="This host or origin is not allowed",
        when=(
            "`Host` or `Origin` is neither a loopback name nor in `ALLOWED_HOSTS`, or another site asks (`Sec-"
            "Fetch-Site`); see [security.md](security.md)"
        ),
        remedy="use a name of the service, or have it put into `ALLOWED_HOSTS`",
    ),
    "not_found": Kind(
        status=404,
        category="request",
        title="There is nothing here",
        when="no such path",
        remedy="mend the path",
    ),
    "method_not_allowed": Kind(
        status=405,
        category="request",
        title="This cannot be done here",
        when="the path is right, the method is not",
        remedy="mend the method",
    ),
    "stale_revision": Kind(
        status=412,
        category="request",
        title="The change was meant for another revision",
        when=(
            "`If-Match` names a revision (of the rollout or of a program) that is no longer the newest, `If-None-"
            "Match: *` comes for a program that exists, or a rollback was asked for after this change, which is "
            "void then"
        ),
        remedy="read the rollout or the program again, decide again",
    ),
    "invalid_plan": Kind(
        status=422,
        category="request",
        title="The plan makes no sense",
        when="a plan (`PUT /rollout/plan`, `ROLLOUT_PLAN_FILE`) makes no sense; `detail` says where",
        remedy="mend the plan",
    ),
    "plan_conflict": Kind(
        status=409,
        category="request",
        title="The plan's state does not allow that",
        when="another plan is under way, or the plan's state does not allow what was asked for; a rotation lacks"
        " evidence; or a reload of all pools, and the pools are being compared",
        remedy="read `detail` and `GET /rollout/status`, then decide",
    ),
    "idempotency_conflict": Kind(
        status=409,
        category="request",
        title="The Idempotency-Key belongs to another call",
        when=(
            "the `Idempotency-Key` was sent with another body, program or form of answer; or the first call with it "
            "still runs (`Retry-After`), or was lost with its replica (then `retry_safe` is false); see "
            "[idempotency keys](streaming.md#idempotency-keys)"
        ),
        remedy="take a new key for a new call; wait for a first call that runs; find out how far a lost call came",
        headers=("Retry-After",),
    ),
    "rollback_impossible": Kind(
        status=409,
        category="request",
        title="There is nothing to roll back to",
        when="a rollback, a percentage or a plan's start, and the service runs without V1 (`POOLS=v2`); a reload"
        " with `previous`, and the pool keeps no code from before a reload, since none has brought other code yet; or a"
        " demotion, and the definition in force is not a promoted one, or V2 has another of its own",
        remedy="nothing: V1 has been taken out of service on purpose; put the code on disk back, and reload; restore a"
        " revision of the program",
    ),
    "program_not_found": Kind(
        status=404,
        category="session",
        title="No such program",
        when="no such program, neither in the session nor among the global ones; or V2 has no definition of its own",
        remedy="create it; a session's programs end with the session",
    ),
    "session_not_found": Kind(
        status=404,
        category="session",
        title="No such session",
        when="no such session: never seen, ended, or expired",
        remedy="nothing: the next call begins it again",
    ),
    "session_ended": Kind(
        status=410,
        category="session",
        title="The session has ended",
        when=(
            "a call of a session that ended in the last 7 days and held programs or a language model of its own; see "
            "[its end](sessions.md#its-end)"
        ),
        remedy="create them again in the session, which begins it again, or take another session id",
    ),
    "execution_not_found": Kind(
        status=404,
        category="session",
        title="No such execution",
        when="no job of this id: never started, or no longer kept",
        remedy="nothing: its result is gone",
    ),
    "program_exists": Kind(
        status=409,
        category="session",
        title="The program's id is taken",
        when="the id is taken in this session, or among the global ones; or it is kept for the owner of a deleted"
        " program, which can still be restored",
        remedy="use the one that is there, or another id",
    ),
    "incompatible_definition": Kind(
        status=409,
        category="program",
        title="V2's own definition does not take V1's calls",
        when=(
            "V2's own definition does not take V1's calls, or does not answer with what V1 does, or a change of V1's "
            "definition parts it from V2's; `field` is in the way"
        ),
        remedy=(
            "have V2's definition take what V1's takes ([versions](programs.md#a-definition-of-v2s-own)), or take it "
            "back first"
        ),
    ),
    "invalid_inputs": Kind(
        status=422,
        category="program",
        title="The inputs do not fit the program's signature",
        when="the inputs do not fit the signature; the program did not run",
        remedy="mend the field that is named",
    ),
    "invalid_outputs": Kind(
        status=500,
        category="program",
        title="The outputs do not fit the program's signature",
        when="what the program returned does not fit its signature, or is over 64 MiB",
        remedy="have the program mended",
        retry_safe=False,
    ),
    "program_error": Kind(
        status=500,
        category="program",
        title="The program raised an error",
        when="the program raised; type and message, the traceback is in the log alone",
        remedy="read `detail`; ask the program's author, with the execution id",
        retry_safe=False,
    ),
    "lm_not_configured": Kind(
        status=409,
        category="upstream",
        title="No language model is configured",
        when="a DSPy program, and no language model for it",
        remedy="configure one",
    ),
    "lm_error": Kind(
        status=502,
        category="upstream",
        title="The language model failed",
        when="the language model's endpoint failed",
        remedy="try later, if running it twice does no harm",
        retry_safe=False,
    ),
    "pool_overloaded": Kind(
        status=503,
        category="resource",
        title="The pool is overloaded",
        when="the queue is full, or the wait would be longer than the deadline: shed at once",
        remedy="wait that long, and send less at once",
        headers=("Retry-After",),
    ),
    "checkout_timeout": Kind(
        status=503,
        category="timeout",
        title="No worker came free in time",
        when="no worker came free within `CHECKOUT_TIMEOUT_S`, or before the deadline",
        remedy="wait that long, then try again",
        headers=("Retry-After",),
    ),
    "execution_timeout": Kind(
        status=504,
        category="timeout",
        title="The deadline passed",
        when=(
            "the deadline passed while the program ran, or its stream's client read nothing while others waited; "
            "its worker was killed"
        ),
        remedy=(
            "allow more time: a call at most `EXECUTION_TIMEOUT_S`, a [job](streaming.md#jobs) at most `JOB_TIMEOUT_S`"
        ),
        retry_safe=False,
    ),
    "load_failed": Kind(
        status=500,
        category="program",
        title="The program could not be loaded",
        when="the program's module, or its `setup()`, raised; type and message, the traceback is in the log alone. Of a"
        " reload, and of a creation with `--reload`: the code on disk cannot be loaded, or breaks `programs` that the"
        " workers load, and the workers keep theirs",
        remedy="have the program mended",
    ),
    "load_timeout": Kind(
        status=504,
        category="program",
        title="The program took too long to load",
        when="the program did not load within `LOAD_TIMEOUT_S`; its worker was killed",
        remedy="see `PRELOAD` and `LOAD_TIMEOUT_S` ([loading](programs.md#loading))",
    ),
    "code_outdated": Kind(
        status=409,
        category="program",
        title="The pool's workers have other code",
        when="the pool's workers have other code than the disk, so the program is not created, or V1 gets no such pool",
        remedy="`poolshift pools reload v1` and `v2`, then create it, or rotate once V2 has tried it",
    ),
    "worker_crashed": Kind(
        status=502,
        category="communication",
        title="The worker died",
        when="the worker died under this call; of an idempotent program, twice",
        remedy="do not repeat it blindly: it may have done half its work",
        retry_safe=False,
    ),
    "program_quarantined": Kind(
        status=503,
        category="program",
        title="The program is in quarantine",
        when="the program killed workers three times in a row and is stopped for a while",
        remedy="have the program mended; it is tried again by itself",
        headers=("Retry-After",),
    ),
    "pool_closed": Kind(
        status=503,
        category="resource",
        title="The service is shutting down",
        when="the service is shutting down; `retry_safe` is false if the program had started",
        remedy="try again, on another replica or after the restart",
    ),
    "store_unavailable": Kind(
        status=503,
        category="resource",
        title="The database does not answer",
        when=(
            "the database does not answer; executions of programs that are known go on. Of a rollback: it is in "
            "force on this replica, as `detail` says, and is written as soon as possible"
        ),
        remedy="try again",
        headers=("Retry-After",),
    ),
    "quota_exceeded": Kind(
        status=429,
        category="resource",
        title="A quota is used up",
        when=(
            "programs, their bytes, those with metrics of their own, sessions, jobs or idempotency keys of the "
            "service, of this session or of this key's owner; `detail` and `quota` name the setting"
        ),
        remedy="delete what is not needed, end sessions, wait for jobs, or have the quota raised",
    ),
    "internal_error": Kind(
        status=500,
        category="resource",
        title="The service failed",
        when="a fault of the service; its log says which",
        remedy="report it, with the execution id",
        retry_safe=False,
    ),
}
