"""An LM for one version: which call has which, what becomes of it, and what the judge makes of its failures."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.lm.conftest import EVERYONES_KEY, SMALL, create, field, on
from tests.lm.endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, Endpoint
from tests.service.test_errors import problem
from tests.support.service import POOLSHIFT, Service, running_service
from tests.support.waiting import wait_until

V2 = "?pool_version=v2"
EVERYONES = f"everyone {EVERYONES_KEY}"


def settings(endpoint: Endpoint, v2: str) -> dict[str, Any]:
    """Everyone's LM answers as `everyone`; V2's behaves as `v2` says."""
    return {
        "LM_MODEL": "openai/test",
        "LM_API_BASE": endpoint.base("answers", "everyone"),
        "LM_API_KEY": EVERYONES_KEY,
        "V2_LM_API_BASE": endpoint.base(v2, "of-v2"),
        "V2_LM_API_KEY": "sk-of-v2",
        **SMALL,
    }


@pytest.fixture(scope="module")
def service(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("lm-of-v2"), **settings(endpoint, "answers")) as service:
        yield service


def topics(service: Service, program: str, session: str | None = None) -> list[str]:
    """The answers of V1 and of V2."""
    found = [service.execute(program, on(v), inputs={"text": "x"}, session_id=session) for v in ("v1", "v2")]
    assert [answer.status_code for answer in found] == [200, 200], [answer.text for answer in found]
    return [answer.json()["outputs"]["topic"] for answer in found]


def lm(endpoint: Endpoint, name: str) -> dict[str, str]:
    return {"model": "openai/test", "api_base": endpoint.base("answers", name), "api_key": f"sk-{name}"}


def test_each_version_has_its_own_prompt_and_model(service: Service, endpoint: Endpoint) -> None:
    """A new prompt as V2's own definition, and V2's model: each prompt reaches its own model alone."""
    program = create(service, [field("text")], [field("topic")], instructions="Name the topic.")
    signature = {"inputs": [field("text")], "outputs": [field("topic")]}
    body = {"program_type": "chain_of_thought", "signature": signature, "instructions": "Think of a better topic."}
    assert service.client.put(f"/programs/{program}{V2}", json=body).status_code == 201
    assert topics(service, program) == [EVERYONES, "of-v2 sk-of-v2"]
    prompts = [endpoint.prompt(name) for name in ("everyone", "of-v2")]
    assert ["Name the topic." in prompt for prompt in prompts] == [True, False]
    assert ["Think of a better topic." in prompt for prompt in prompts] == [False, True]
    promoted = service.client.post(f"/programs/{program}/promote", json={"force": True, "reason": "sure"})
    assert promoted.json()["program_type"] == "chain_of_thought"
    assert topics(service, program) == [EVERYONES, "of-v2 sk-of-v2"]
    assert "Think of a better topic." in endpoint.prompt("everyone")


def test_which_lm_counts(service: Service, endpoint: Endpoint) -> None:
    """A session's, then a version's by the API, then the environment's, then everyone's; keys are never shown."""
    program = create(service, [field("text")], [field("topic")])
    client = service.client
    before = client.get(f"/lm{V2}").json()
    assert (before["set_for"], before["has_api_key"], before["updated_by"]) == ("version", True, None)
    assert [client.get(f"/lm{query}").json()["set_for"] for query in ("", "?pool_version=v1")] == ["everyone"] * 2
    put = client.put(f"/lm{V2}", json=lm(endpoint, "put"))
    assert (put.status_code, put.json()["set_for"], put.json()) == (200, "version", client.get(f"/lm{V2}").json())
    assert topics(service, program) == [EVERYONES, "put sk-put"]
    client.put("/lm", json=lm(endpoint, "later"))
    assert topics(service, program) == ["later sk-later", "put sk-put"]
    client.put("/lm?pool_version=v1", json=lm(endpoint, "v1"))
    assert topics(service, program) == ["v1 sk-v1", "put sk-put"]
    client.put("/sessions/s/lm", json=lm(endpoint, "own"))
    assert topics(service, program, "s") == ["own sk-own"] * 2
    service.stop()
    service.start()
    assert topics(service, program) == ["v1 sk-v1", "put sk-put"]
    for version in ("v1", "v2", "v2"):
        assert client.delete(f"/lm?pool_version={version}").status_code == 204
    assert topics(service, program) == ["later sk-later", "of-v2 sk-of-v2"]
    assert client.get(f"/lm{V2}").json() == before
    client.put(f"/lm{V2}", json={"model": "none"})
    assert service.execute(program, on("v1"), inputs={"text": "x"}).status_code == 200
    problem(service.execute(program, on("v2"), inputs={"text": "x"}), 409, "lm_not_configured")
    client.delete(f"/lm{V2}")
    problem(client.put("/lm?pool_version=v3", json={"model": "none"}), 422, "invalid_request")
    shown = service.log() + "".join(client.get(path).text for path in ("/lm", f"/lm{V2}", "/sessions/s/lm", "/metrics"))
    assert "sk-" not in shown
    with httpx.Client(base_url=service.url) as http:
        refused = http.post("/rollout/rotate")
    assert "an LM of its own at 0 %" in problem(refused, 409, "plan_conflict")["detail"]
    assert client.patch("/rollout", json={"canary_percent": 100}).is_success
    assert "key from the environment" in problem(client.post("/rollout/rotate"), 409, "plan_conflict")["detail"]
    client.put(f"/lm{V2}", json=lm(endpoint, "put"))
    own = {"program_type": "predict", "signature": "text -> topic", "instructions": "Rotate."}
    assert client.put(f"/programs/{program}{V2}", json=own).status_code == 201
    assert client.post("/rollout/rotate", json={"unproven": True, "reason": "a test"}).status_code == 200
    assert topics(service, program) == ["put sk-put"] * 2
    assert "Rotate." in endpoint.prompt("put")
    assert client.get("/rollout").json()["canary_percent"] == 0
    assert client.get(f"/programs/{program}").json()["v2"] is None


def test_a_failing_model_on_v2_alone_rolls_back(start_service: StartService, endpoint: Endpoint) -> None:
    """With another LM on V2, `upstream` judges what is being changed; a change of it begins the evidence again."""
    service = start_service(**settings(endpoint, "fails"))
    program = create(service, [field("text")], [field("topic")])
    plan = {"steps": [{"percent": 50, "hold_s": 3600, "min_calls": 10}]}
    assert service.client.put("/rollout/plan", json=plan).is_success
    assert service.client.post("/rollout/start").is_success

    def upstream() -> dict[str, Any]:
        rows = service.client.get("/rollout/analysis").json()
        return next(row for row in rows if row["name"] == "upstream")

    assert upstream()["action"] == "rollback"
    statuses = set()

    def is_rolled_back() -> bool:
        answer = service.execute(program, inputs={"text": "x"})
        statuses.add((answer.headers["x-pool-version"], answer.status_code))
        return bool(service.client.get("/rollout/status").json()["state"] == "rolled_back")

    wait_until(is_rolled_back, "the judge rolls V2's failing LM back")
    assert statuses == {("v1", 200), ("v2", 502)}
    status = service.client.get("/rollout/status").json()
    assert (status["guardrail"], service.client.get("/rollout").json()["source"]) == ("upstream", "judge")
    assert service.client.put(f"/lm{V2}", json=lm(endpoint, "better")).is_success
    assert service.client.post("/rollout/start").is_success
    assert service.client.delete(f"/lm{V2}").status_code == 204
    assert "took back the LM of v2" in service.client.get("/rollout/status").json()["reason"]
    everyones = {**lm(endpoint, "everyone"), "api_key": EVERYONES_KEY}
    assert service.client.put(f"/lm{V2}", json=everyones).is_success
    assert upstream()["action"] == "pause"


def test_a_dearer_model_on_v2_pauses_the_ramp(start_service: StartService, endpoint: Endpoint) -> None:
    """Tokens of V2's cost twelve times as much: the metrics, the analysis and the trace tell it."""
    prices = {"openai/test": {"input": 1, "output": 2}, "openai/dear": {"input": 12, "output": 24}}
    mine = {**settings(endpoint, "answers"), "V2_LM_MODEL": "openai/dear", "LM_PRICES": json.dumps(prices)}
    service = start_service(**mine)
    program = create(service, [field("text")], [field("topic")])
    assert [service.pool(version)["lm"] for version in ("v1", "v2")] == ["openai/test", "openai/dear"]
    assert "lm openai/test → openai/dear" in service.client.get("/pools/diff").json()["summary"]
    assert "lm openai/test → openai/dear" in service.log()
    plan = {"steps": [{"percent": 50, "hold_s": 3600, "min_calls": 10}], "latency_floor_ms": 10_000}
    assert service.client.put("/rollout/plan", json=plan).is_success
    assert service.client.post("/rollout/start").is_success

    def is_paused() -> bool:
        assert service.execute(program, inputs={"text": "x"}).status_code == 200
        return bool(service.client.get("/rollout/status").json()["state"] == "paused")

    wait_until(is_paused, "the judge pauses for the cost")
    status = service.client.get("/rollout/status").json()
    assert status["guardrail"] == "cost"
    assert re.match(r"cost: 1,000 calls cost 0\.2\d on V2, 0\.02\d? on V1 \(", status["reason"]), status
    row = next(row for row in service.client.get("/rollout/analysis").json() if row["name"] == "cost")
    assert row["log_e"] >= row["threshold"]
    assert row["ratio"][0] > 1
    once = (PROMPT_TOKENS + 2 * COMPLETION_TOKENS) / 1e6
    for version, model, times in (("v1", "openai/test", 1), ("v2", "openai/dear", 12)):
        labels = {"pool_version": version, "model": model}
        count = service.metric("poolshift_lm_executions_total", **labels)
        assert count > 10
        assert service.metric("poolshift_lm_cost_total", **labels) == pytest.approx(count * times * once)
    lines = [json.loads(line) for line in service.client.get("/rollout/analysis/trace").text.splitlines()]
    assert {(line["arm"], line["cost"]) for line in lines} == {("v1", once), ("v2", 12 * once)}
    trace = service.directory / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    replayed = subprocess.run(
        [*POOLSHIFT, "judge", "replay", trace, "--json"], capture_output=True, text=True, check=True
    )
    verdicts = [json.loads(line) for line in replayed.stdout.splitlines()]
    assert ("pause", "cost") in [(one["verdict"], one["guardrail"]) for one in verdicts]
