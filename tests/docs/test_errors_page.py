"""docs/errors.md: the taxonomy as the code has it, and the original's messages on it."""

import re

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.problem_kinds import KINDS
from app.problems import Problem, problem_of
from pools import errors
from pools.errors import CheckoutTimeout, ExecutionError, PoolClosed, WorkerCrashed
from routing.errors import ProgramExists, ProgramNotFound, SessionNotFound, StaleRevision, StoreUnavailable
from routing.rollout.model import Rollout, Source
from tests.conftest import StartService
from tests.support.pages import blocks, codes, page, section, table
from tests.support.service import Service
from tools import errors_page

PAGE = page("errors.md")
ROWS = {codes(row["code"])[0]: row for row in table(PAGE, "code")}
MAPPING = section(PAGE, "## How the original's messages map")
CATEGORIES = {codes(row["original category"])[0]: row for row in table(MAPPING, "original category")}
MESSAGES = table(MAPPING, "raw message")

# DSPex.PythonBridge.PoolErrorHandler's own type, error_category().
ORIGINAL_CATEGORIES = {
    "initialization_error",
    "connection_error",
    "communication_error",
    "timeout_error",
    "resource_error",
    "health_check_error",
    "session_error",
    "python_error",
    "system_error",
}


def execution_errors() -> list[ExecutionError]:
    """One of each kind, as the pools raise it."""
    made = {
        errors.WorkerCrashed: {"exit_cause": "signal SIGSEGV"},
        errors.PoolOverloaded: {"retry_after_s": 1.0},
        errors.CheckoutTimeout: {"retry_after_s": 1.0},
        errors.ProgramQuarantined: {"retry_after_s": 1.0},
        errors.MalformedInputs: {"started": False},
        errors.LMNotConfigured: {"started": False},
    }
    kinds = ExecutionError.__subclasses__()
    return [kind("detail", **made.get(kind, {})) for kind in kinds]  # type: ignore[arg-type]


def test_every_code_is_there_once_with_its_status_and_category() -> None:
    """The page has the table of `app/problems.py`, no more and no less."""
    said = {code: (int(row["status"]), row["category"]) for code, row in ROWS.items()}
    assert said == {code: (kind.status, kind.category) for code, kind in KINDS.items()}
    assert len(table(PAGE, "code")) == len(ROWS)


def test_the_table_is_the_one_of_the_code() -> None:
    """Word for word: the pages that the service serves have the same texts (`python -m tools.errors_page`)."""
    assert errors_page.renewed(PAGE) == PAGE


def test_the_pools_errors_are_as_the_page_says() -> None:
    """Category, retry_safe and headers of each, as they come out over HTTP."""
    for error in execution_errors():
        row, problem = ROWS[error.code], problem_of(error)
        assert row["category"] == error.category == KINDS[error.code].category
        assert row["retry_safe"] == ("yes" if problem.retry_safe else "no"), error.code
        assert ("Retry-After" in codes(row["headers"])) == ("retry-after" in problem.headers()), error.code
    assert problem_of(PoolClosed("", started=True)).retry_safe is False


def test_the_other_errors_are_as_the_page_says() -> None:
    """Errors of the router, the store and FastAPI, and an error that nobody foresaw."""
    for error in (
        ProgramNotFound("p"),
        SessionNotFound("s"),
        ProgramExists("p"),
        StaleRevision(Rollout(1, 0, None, Source.DEFAULT, "start", None)),
        StoreUnavailable("it does not answer"),
        RequestValidationError([]),
        HTTPException(404),
        HTTPException(405),
        HTTPException(413),
        Problem("unauthorized", "no key"),
        Problem("forbidden", "not this key"),
        RuntimeError("a fault"),
    ):
        problem = problem_of(error)
        row = ROWS[problem.code]
        assert row["retry_safe"] == ("yes" if problem.retry_safe else "no"), problem.code
        headers = {name.lower() for name in codes(row["headers"])}
        assert headers == problem.headers().keys() - {"content-type"}, problem.code


def test_every_row_says_when_and_what_to_do() -> None:
    """A code that nobody knows what to do about is of no use."""
    for code, row in ROWS.items():
        assert row["when"], code
        assert row["what a caller should do"], code
        assert row["retry_safe"] in ("yes", "no"), code


def test_there_is_nothing_to_roll_back_to_without_v1(start_service: StartService) -> None:
    """And the service says so."""
    answer = start_service(POOLS="v2").client.post("/rollout/rollback")
    row = ROWS[answer.json()["code"]]
    assert (row["code"], int(row["status"])) == ("`rollback_impossible`", answer.status_code)


def test_the_example_is_what_the_service_says(shared_service: Service) -> None:
    """The members and all that is not of the moment."""
    program = shared_service.create("exits_hard", {"code": "integer"})
    said = blocks(PAGE)[0].json()
    answer = shared_service.execute(program, inputs={"code": 3}).json()
    of_the_moment = {"execution_id": said["execution_id"], "pool_version": said["pool_version"]}
    assert list(answer) == list(said)
    assert {**answer, **of_the_moment} == said


def test_every_category_of_the_original_is_mapped_once() -> None:
    """Nothing of the original falls through, and nothing is mapped that it does not have."""
    assert CATEGORIES.keys() == ORIGINAL_CATEGORIES
    assert len(table(MAPPING, "original category")) == len(CATEGORIES)


def test_the_mapping_leads_to_codes_that_exist() -> None:
    """Each row names at least one code, and no other than ours."""
    for row in [*CATEGORIES.values(), *MESSAGES]:
        assert codes(row["our codes"]), row
        assert set(codes(row["our codes"])) <= KINDS.keys(), row


def test_every_raw_message_is_mapped_once_and_has_its_source() -> None:
    """The file that it comes from is named, and its category is one of the original's."""
    sources = {row["source"]: row for row in table(MAPPING, "source")}
    for row in sources.values():
        assert re.fullmatch(r"`[0-9a-f]{8}`", row["commit"])
        assert codes(row["file"])[0].endswith(".ex")
    assert {row["source"] for row in MESSAGES} == sources.keys() - {"handler"}
    for row in MESSAGES:
        assert row["original category"] == "none" or codes(row["original category"])[0] in CATEGORIES
        assert row["because"]
    places = [(row["raw message"], row["source"]) for row in MESSAGES]
    assert len(set(places)) == len(places)


def test_both_engines_and_their_categories_agree() -> None:
    """A message's codes are among those that its category maps to, or the page files it elsewhere on purpose."""
    elsewhere = {"system_error", "none", "communication_error"}  # the handler's catch-alls: they say nothing
    for row in MESSAGES:
        category = row["original category"].strip("`")
        if category not in elsewhere and row["source"] != "V2 worker":
            assert set(codes(row["our codes"])) <= set(codes(CATEGORIES[category]["our codes"])), row


def test_an_error_of_a_worker_and_one_of_the_queue_are_told_apart() -> None:
    """Errors that the original's V1 both called a pool error."""
    assert WorkerCrashed("", exit_cause="").started
    assert not CheckoutTimeout("", retry_after_s=1).started
