"""The tokens of shadow calls and of metrics: in a metric of their own, and in no figure of callers."""

import pytest

from tests.conftest import StartService
from tests.lm.conftest import create, field
from tests.lm.endpoint import COMPLETION_TOKENS, Endpoint
from tests.support.service import Service
from tests.support.waiting import wait_until

PRICES = '{"openai/test": {"input": 0, "output": 1000000}}'


def tokens(service: Service, metric: str, version: str) -> float:
    return service.metric(f"poolshift_{metric}_tokens_total", pool_version=version, kind="completion")


def test_a_copy_is_paid_for_and_counted_apart(start_service: StartService, endpoint: Endpoint) -> None:
    service = start_service(
        LM_MODEL="openai/test",
        LM_API_BASE=endpoint.base("answers", "everyone"),
        LM_API_KEY="sk-everyone",
        LM_PRICES=PRICES,
        SHADOW_PERCENT=100,
        SHADOW_MAX_CPU_PERCENT=100,
        SHADOW_TIMEOUT_S=30,
    )
    program = create(service, [field("text")], [field("topic")], idempotent=True)
    assert service.execute(program, inputs={"text": "x"}, timeout_s=30).status_code == 200
    wait_until(lambda: tokens(service, "shadow_lm", "v2") > 0, "the copy is counted")
    assert tokens(service, "shadow_lm", "v2") == COMPLETION_TOKENS
    assert service.metric("poolshift_shadow_lm_cost_total", pool_version="v2") == pytest.approx(COMPLETION_TOKENS)
    assert (tokens(service, "lm", "v1"), tokens(service, "lm", "v2")) == (COMPLETION_TOKENS, 0)
    assert service.client.get("/rollout/status").json()["shadow_percent"] == 100
