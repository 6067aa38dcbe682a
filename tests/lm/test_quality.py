"""The example of DSPy with a metric of DSPy's form, on the small model: pairs of both versions are scored."""

import json
from pathlib import Path

import pytest

from tests.lm.conftest import SMALL
from tests.support.service import ROOT, running_service
from tests.support.waiting import wait_until


@pytest.mark.local_model
def test_the_example_is_scored_on_both_versions(tmp_path: Path) -> None:
    settings = {"LM_MODEL": "local", "SHADOW_PERCENT": 100, "SHADOW_MAX_CPU_PERCENT": 100, "QUALITY_TIMEOUT_S": 60}
    with running_service(tmp_path, **SMALL, **settings, EXECUTION_TIMEOUT_S=120, SHADOW_TIMEOUT_S=120) as service:
        example = json.loads((ROOT / "examples/support_ticket.json").read_text())
        body = {**example, "idempotent": True, "metric": "examples.ticket_metric:is_useful"}
        assert service.client.post("/programs", json=body).status_code == 201
        message = "The app crashes whenever I open it, please help today!"
        answer = service.client.post(
            "/programs/support-ticket/execute", json={"inputs": {"message": message}}, timeout=120
        )
        assert answer.status_code == 200, answer.text

        def is_scored() -> bool:
            found = service.client.get("/shadow/support-ticket")
            return found.status_code == 200 and (found.json()["quality"] or {"pairs": 0})["pairs"] == 1

        wait_until(is_scored, f"the pair is scored: {service.client.get('/shadow').text}", 120)
        quality = service.client.get("/shadow/support-ticket").json()["quality"]
        assert all(0 <= quality[f"{version}_mean"] <= 1 for version in ("v1", "v2"))
        assert service.metric("poolshift_quality_score_count", pool_version="v2") == 1
