"""Shadow calls with real workers on both engines: what they find, what they leave alone, and what can go wrong."""

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import POOLSHIFT, Service, running_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.environ.get("POOL_VERSION") == "v1", reason="a pin leaves nothing to compare")

MODULE = "tests.support.shadow_programs"
EUR = [
    {"name": "total", "type": "number"},
    {"name": "currency", "type": "string"},
    {"name": "password", "type": "string", "secret": True, "compare": "ignore"},
]
NOISY = [
    {"name": "at", "type": "number"},
    {"name": "order", "type": "array"},
    {"name": "pid", "type": "integer"},
    {"name": "names", "type": "array"},
    {"name": "label", "type": "boolean"},
]


def settings(directory: Path, **more: Any) -> dict[str, Any]:
    """Settings of a service whose versions know who they are, and whose gate is open however busy this machine is."""
    for version in ("v1", "v2"):
        (directory / f"{version}.env").write_text(f"VERSION={version}\nLEDGER={directory / 'ledger'}\n")
    return {
        "PROGRAM_MODULES": MODULE,
        "V1_WORKER_ENV_FILE": directory / "v1.env",
        "V2_WORKER_ENV_FILE": directory / "v2.env",
        "SHADOW_PERCENT": 100,
        "SHADOW_MAX_CPU_PERCENT": 100,
        **more,
    }


@pytest.fixture(scope="module", params=["session_pool", "session_pool_v2"])
def shadowing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that copies every call of V1, with V1 on each engine; V2 has three workers."""
    directory = tmp_path_factory.mktemp(request.param)
    with running_service(
        directory, **settings(directory, V1_ENGINE=request.param, V1_POOL_SIZE=3, V2_POOL_SIZE=3, SHADOW_TIMEOUT_S=20)
    ) as service:
        yield service


def create(service: Service, function: str, *, idempotent: bool = True, output: str = "integer", **more: Any) -> str:
    return service.create(f"{MODULE}:{function}", {"n": "integer"}, output, idempotent=idempotent, **more)


def report(service: Service, program: str) -> dict[str, Any]:
    answer = service.client.get(f"/shadow/{program}")
    return answer.json() if answer.status_code == 200 else {"compared": 0, "differing": 0, "shed": 0}


def run(service: Service, program: str, numbers: range, *, compared: int | None = None) -> dict[str, Any]:
    """Runs a program, each call after the shadow of the one before, and returns the report."""
    before = report(service, program)
    for done, n in enumerate(numbers, 1):
        assert service.execute(program, inputs={"n": n}).status_code in (200, 500)
        wait_until(
            lambda done=done: ended(report(service, program)) >= ended(before) + done,  # type: ignore[misc]
            f"the shadow of call {n} has ended: {report(service, program)}",
        )
    found = report(service, program)
    if compared is not None:
        assert found["compared"] >= compared
    return found


def example_of(service: Service, program: str) -> dict[str, Any]:
    """The first example of a program; a thread makes it soon after the call is counted."""
    wait_until(lambda: report(service, program)["examples"], "an example is kept")
    example: dict[str, Any] = report(service, program)["examples"][0]
    return example


def ended(found: dict[str, Any]) -> int:
    return int(found["compared"]) + int(found["shed"])


def fields(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["field"]: row for row in found["fields"]}


@pytest.mark.parametrize("how", ["exact", "unordered", {"number": 0.1}, {"text": 0.9}])
def test_outputs_that_are_nested_too_deeply(shadowing: Service, how: Any) -> None:
    """At 900 levels they cannot be compared, which is counted, and said on demand; at 190 they differ."""
    outputs = [{"name": "deep", "type": "any", "compare": how}, {"name": "flat", "type": "integer"}]
    program = create(shadowing, "nested", outputs=outputs)
    before = shadowing.metric("poolshift_shadow_calls_total", outcome="not_comparable")
    found = run(shadowing, program, range(900, 903))
    assert found["shed_reasons"] == {"outputs_too_deep": 3}
    assert (found["compared"], found["differing"]) == (0, 0)
    assert {name: row["compared"] for name, row in fields(found).items()} == {"$error": 3, "flat": 3}
    assert shadowing.metric("poolshift_shadow_calls_total", outcome="not_comparable") == before + 3
    answer = shadowing.client.post(f"/shadow/{program}/compare", json={"inputs": {"n": 900}})
    assert (answer.status_code, answer.json()["fields"]["deep"]) == (200, "unknown"), answer.text
    found = run(shadowing, program, range(190, 191), compared=1)
    assert fields(found)["deep"]["differing"] == 1
    answer = shadowing.client.post(f"/shadow/{program}/compare", json={"inputs": {"n": 190}}).json()
    assert answer["fields"] == {"$error": "same", "deep": "v2", "flat": "same"}
    assert answer["example"]["diff"]


def test_a_difference_is_found_named_and_shown(shadowing: Service) -> None:
    """Every third total differs, so 36 calls are enough; the secret output is in no report."""
    program = create(shadowing, "total", outputs=EUR)
    found = run(shadowing, program, range(45))
    by_field = fields(found)
    assert set(by_field) == {"$error", "total", "currency"}
    assert by_field["total"]["differs"], found
    assert not by_field["currency"]["differs"]
    assert 0 < by_field["total"]["interval"][0] <= by_field["total"]["differing"] / by_field["total"]["compared"]
    example = example_of(shadowing, program)
    assert example["odd"] == {"total": "v2"}
    assert float(example["v2"]["total"]) == pytest.approx(float(example["v1"]["total"]) + 0.01)
    assert "total" in "\n".join(example["diff"])
    assert "secret-" not in json.dumps(shadowing.client.get("/shadow").json())
    assert shadowing.metric("poolshift_shadow_differences_total", odd="v2") >= 12


def test_noise_is_no_difference(shadowing: Service) -> None:
    """A clock, a random order, a pid and a coin differ on V1 too; the order of a set is the same everywhere."""
    found = run(shadowing, create(shadowing, "noisy", outputs=NOISY), range(20))
    by_field = fields(found)
    assert not any(row["differs"] for row in by_field.values()), found
    assert by_field["at"]["differing"] == by_field["at"]["noise"] > 0
    assert by_field["names"]["differing"] == 0


def test_a_program_that_is_not_idempotent_runs_once(shadowing: Service) -> None:
    """However high the share is; the ledger has each execution. With `shadow: true` it runs on V2, too."""
    once, twice = create(shadowing, "once", idempotent=False), create(shadowing, "same", idempotent=False, shadow=True)
    run(shadowing, twice, range(500, 505), compared=1)
    for n in range(1000, 1020):
        shadowing.execute(once, inputs={"n": n})
    run(shadowing, twice, range(505, 508), compared=1)
    ledger = Counter(
        (program, version)
        for program, _, version in map(str.split, (shadowing.directory / "ledger").read_text().splitlines())
    )
    assert (ledger["once", "v1"], ledger["once", "v2"]) == (20, 0)
    assert ledger["same", "v2"] > 0
    assert shadowing.client.get(f"/shadow/{once}").status_code == 404


def test_nothing_else_changes_by_a_shadow(shadowing: Service) -> None:
    """No count, no session, no history, no figure of V2's but the shadow's own."""
    program = create(shadowing, "same")
    history = shadowing.client.get("/rollout/history").json()
    before = shadowing.pool("v2")["totals"]["dispatched"]
    organic = shadowing.metric("poolshift_requests_total", pool_version="v2", operation="execute")
    shadows = shadowing.metric("poolshift_requests_total", pool_version="v2", operation="shadow")
    run(shadowing, program, range(5), compared=1)
    view = shadowing.client.get(f"/programs/{program}").json()
    assert view["execution_count"] == 5
    assert shadowing.pool("v2")["totals"]["dispatched"] == before
    assert shadowing.metric("poolshift_requests_total", pool_version="v2", operation="execute") == organic
    assert shadowing.metric("poolshift_requests_total", pool_version="v2", operation="shadow") > shadows
    assert shadowing.client.get("/rollout/history").json() == history
    assert shadowing.metric("poolshift_queue_wait_seconds_count", pool_version="v2") == 0


@pytest.mark.parametrize(
    ("function", "output", "code"),
    [
        ("fails_on_v2", "integer", "program_error"),
        ("dies_on_v2", "integer", "worker_crashed"),
        ("hangs_on_v2", "integer", "execution_timeout"),
        ("large_on_v2", "string", "outputs_too_large"),
    ],
)
def test_v2_may_fail_as_it_likes(shadowing: Service, function: str, output: str, code: str) -> None:
    """The caller gets V1's answer, and the report says what V2 did."""
    limit: dict[str, Any] = {"timeout_s": 0.5} if function == "hangs_on_v2" else {}
    program = create(shadowing, function, output=output, **limit)
    found = run(shadowing, program, range(2))
    assert found["compared"] + found["shed"] == 2
    assert example_of(shadowing, program)["v2"] == {"$error": f'"{code}"'}, found
    assert fields(found)["$error"]["differing"] >= 1
    assert shadowing.execute(program, inputs={"n": 1}).json()["pool_version"] == "v1"


def test_a_rollback_ends_the_shadow(shadowing: Service) -> None:
    program = create(shadowing, "same")
    assert shadowing.client.post("/rollout/rollback", json={"reason": "enough"}).json()["shadow_percent"] == 0
    shadowing.execute(program, inputs={"n": 1})
    assert shadowing.metric("poolshift_shadow_percent") == 0
    assert shadowing.client.get(f"/shadow/{program}").status_code == 404
    on = shadowing.client.patch("/rollout", json={"shadow_percent": 100}).json()
    assert (on["shadow_percent"], on["canary_percent"]) == (100, 0)
    assert shadowing.client.get("/rollout/history").json()["items"][0]["shadow_percent"] == 100
    run(shadowing, program, range(3), compared=1)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with V2's own kind of worse answers, where metrics score every call."""
    directory = tmp_path_factory.mktemp("judged")
    options = settings(directory, ENGINE="session_pool_v2", V1_POOL_SIZE=4, V2_POOL_SIZE=4)
    with running_service(directory, **options, QUALITY_SAMPLE_PERCENT=100, QUALITY_TIMEOUT_S=2) as service:
        yield service


def evidence(service: Service, guardrail: str) -> dict[str, Any]:
    """The row of a guardrail."""
    rows: list[dict[str, Any]] = service.client.get("/rollout/analysis").json()
    return next(row for row in rows if row["name"] == guardrail)


@pytest.mark.parametrize(
    ("observed", "guardrail", "stratum", "says"),
    [
        ("shadow", "quality", "", r"V2's mean score is 0\.\d+ in \d+ calls, V1's 1\.000 in \d+"),
        ("quality", "shadow", ".result", r"V2 is the odd one in \d+ of \d+ compared calls, V1 in 0, by result"),
    ],
)
def test_worse_answers_pause_the_ramp(judged: Service, observed: str, guardrail: str, stratum: str, says: str) -> None:
    """A metric that is halved on V2, or an answer that differs, is evidence against V2, found within 300 calls.

    The reason has its counts or means and a program's name, and the e-value in parentheses.
    """
    program = create(judged, "answer", output="string", metric=f"{MODULE}:is_good")
    plan = {"steps": [{"percent": 20, "hold_s": 3600}], "guardrails": {observed: {"action": "observe"}}}
    assert judged.client.put("/rollout/plan", json=plan).status_code == 200
    assert judged.client.patch("/rollout", json={"shadow_percent": 100}).status_code == 200
    assert judged.client.post("/rollout/start", json={}).status_code == 200
    try:
        for n in range(600):
            assert judged.execute(program, inputs={"n": n}).status_code == 200
            if n % 10 == 0:
                wait_until(lambda: not waits(judged), "the shadow calls have run")
                row = evidence(judged, guardrail)
                if row["log_e"] >= row["threshold"]:
                    break
        compared = report(judged, program)["compared"]
        wait_until(lambda: judged.client.get("/rollout/status").json()["state"] == "paused", "the ramp is paused")
        status = judged.client.get("/rollout/status").json()
        assert status["guardrail"] == guardrail, status
        assert re.match(rf"{guardrail}: {says}.* of the program prog-\w+ \(log e-value ", status["reason"]), status
        row = evidence(judged, guardrail)
        assert row["log_e"] >= row["threshold"]
        assert row["stratum"].endswith(stratum)
        found = report(judged, program)
        assert compared <= 300
        assert found["quality"]["v2_mean"] < found["quality"]["v1_mean"]
        assert judged.metric("poolshift_quality_score_count", pool_version="v2") > 0
        assert replayed(judged)[-1][:2] == ["pause", guardrail]
    finally:
        judged.client.post("/rollout/abort", json={})
    assert judged.client.get("/rollout").json()["shadow_percent"] == 0


def replayed(service: Service) -> list[list[Any]]:
    """Replays what the judge saw: verdict and guardrail of each change."""
    trace = service.directory / "trace.jsonl"
    trace.write_bytes(service.client.get("/rollout/analysis/trace").content)
    command = [*POOLSHIFT, "judge", "replay", str(trace), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[one["verdict"], one["guardrail"]] for one in map(json.loads, done.stdout.splitlines())]


def pairs(service: Service, program: str) -> int:
    """The number of calls of which both answers have a score."""
    quality = report(service, program)["quality"]
    return 0 if quality is None else quality["pairs"]


def waits(service: Service) -> bool:
    """Tells if the pools run anything."""
    return any(pool["busy"] for pool in service.client.get("/pools").json())


def test_a_metric_that_fails_gives_no_score(judged: Service) -> None:
    """Raised, hanging, NaN, text and out of range are counted apart, and are no quality."""
    program = create(judged, "same", metric=f"{MODULE}:bad_metric")
    assert judged.client.patch("/rollout", json={"shadow_percent": 100}).status_code == 200
    for n in range(5):
        assert judged.execute(program, inputs={"n": n}).status_code == 200
    wait_until(lambda: len(report(judged, program).get("metric_failures", ())) == 4, "every way to fail is counted", 60)
    found = report(judged, program)
    assert set(found["metric_failures"]) == {"raised", "timeout", "not_a_number", "out_of_range"}
    assert found["quality"] is None


def test_the_evidence_outlives_a_restart_and_ends_with_the_lm(tmp_path: Path) -> None:
    """A restart goes on with what was found; another LM of everyone is another V2, whose evidence begins again."""
    more = {"V1_POOL_SIZE": 2, "V2_POOL_SIZE": 2, "ENGINE": "session_pool_v2"}
    with running_service(tmp_path, **settings(tmp_path, **more)) as service:
        program = create(service, "answer", output="string", metric=f"{MODULE}:is_good")
        run(service, program, range(0, 40, 2))
        wait_until(lambda: pairs(service, program) == 20, "the pairs are scored")
        before = report(service, program)
    with running_service(tmp_path, **settings(tmp_path, SHADOW_PERCENT=0, **more)) as service:
        wait_until(lambda: report(service, program)["compared"] == before["compared"], "the evidence is back")
        after = report(service, program)
        counted = ("compared", "differing", "shed", "fields", "quality", "v1_ms", "v2_ms")
        assert {name: after[name] for name in counted} == {name: before[name] for name in counted}
        assert any(row["differs"] for row in after["fields"])
        row = next(one for one in service.client.get("/rollout/analysis").json() if one["name"] == "shadow")
        assert row["log_e"] > 0
        assert service.client.put("/lm", json={"model": "openai/other", "api_key": "k"}).status_code == 200
        assert report(service, program)["compared"] == 0
    with running_service(tmp_path, **settings(tmp_path, **more)) as service:
        run(service, program, range(1))
        assert report(service, program)["compared"] == 1


def test_other_variables_of_v2_begin_the_evidence_again(tmp_path: Path) -> None:
    """The file has the same path, and V2 is another one: what was found before is not added to what is found now."""
    options = settings(tmp_path, V1_POOL_SIZE=2, V2_POOL_SIZE=2, ENGINE="session_pool_v2")
    with running_service(tmp_path, **options) as service:
        program = create(service, "same")
        run(service, program, range(2), compared=1)
    with (tmp_path / "v2.env").open("a") as file:
        file.write("MODE=new\n")
    with running_service(tmp_path, **options) as service:
        run(service, program, range(1))
    with running_service(tmp_path, **{**options, "SHADOW_PERCENT": 0}) as service:
        wait_until(lambda: ended(report(service, program)) > 0, "the evidence is back")
        assert ended(report(service, program)) == 1
