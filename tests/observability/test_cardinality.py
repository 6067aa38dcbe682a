"""However many programs, sessions, models and nonsense clients think up: `/metrics` has as many series as before."""

import secrets

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from poolshift.worker.lm import LMUsage
from routing.telemetry.families import MAX_LM_MODELS, OTHER_MODELS
from routing.telemetry.recorder import Recorder
from routing.versions import Version
from tests.conftest import StartService
from tests.support.service import Service

ROUNDS = 4
METHODS = ("PROPFIND", "MKCOL", "REPORT", "LOCK", "SEARCH")
Series = set[tuple[str, frozenset[tuple[str, str]]]]


def series_of(service: Service) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in text_string_to_metric_families(service.client.get("/metrics").text)
        for sample in family.samples
    }


def ask(service: Service, number: int) -> None:
    """Everything that a client may choose, chosen anew; METHODS one after the other, as HTTP allows no others."""
    client, new = service.client, secrets.token_hex(8)
    program = service.create("echo", {"nonce": "string"}, id=f"program-{new}", session_id=f"session-{new}")
    for version in ("v1", "v2"):
        headers = {
            "x-pool-version": version,
            "x-canary-key": new,
            "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
            "baggage": f"{new}={new}",
        }
        inputs = {"nonce": new}
        assert service.execute(program, headers, inputs=inputs, session_id=f"session-{new}").is_success
        service.execute(new, headers)
        service.execute(program, headers, inputs={new: new}, session_id=f"session-{new}")
        client.post(f"/programs/{new}/execute", content=new, headers=headers)
        service.execute(program, headers | {"accept": "text/event-stream"}, inputs=inputs, session_id=f"session-{new}")
    service.execute(program, {"x-pool-version": new}, inputs={"nonce": new})
    client.put(f"/sessions/session-{new}/lm", json={"model": f"openai/{new}"})
    client.patch("/rollout", json={"canary_percent": number}, headers={"if-match": f'"{new}"'})
    for path in (f"/{new}", f"/programs/{new}", f"/executions/{new}", f"/pools/{new}", f"/sessions/{new}?{new}={new}"):
        client.get(path)
        client.get(f"{path}/")
        client.post(f"{path}/execute/")
        client.request(METHODS[number], path)


def test_no_client_makes_a_series(start_service: StartService) -> None:
    """The first round has shown all that there is."""
    service = start_service()
    ask(service, 0)
    first = series_of(service)
    for number in range(1, ROUNDS):
        ask(service, number)
    assert series_of(service) == first


def test_models_beyond_the_first_share_a_label() -> None:
    """Sessions name their models as they like."""
    registry = CollectorRegistry()
    recorder = Recorder(registry, {})
    for number in range(3 * MAX_LM_MODELS):
        recorder.lm_used(Version.V1, f"model-{number}", LMUsage(1, 1), 1.0)
    labels = {
        sample.labels["model"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "poolshift_lm_tokens_total"
    }
    assert labels == {f"model-{number}" for number in range(MAX_LM_MODELS)} | {OTHER_MODELS}
