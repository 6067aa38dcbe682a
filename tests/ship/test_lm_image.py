"""The image with the groups `lm` and `local-model`: a DSPy program answers in it, as closed as the image without."""

import json

import pytest

from tests.ship.containers import assert_size_of_the_readme, container
from tests.support.service import ROOT

pytestmark = pytest.mark.ship


def test_a_program_on_the_local_model_answers(lm_image: str) -> None:
    """`predict` on both versions, in a container that is read-only, without root and without capabilities."""
    program = json.loads((ROOT / "examples/support_ticket.json").read_text())
    inputs = {"message": "I was charged twice this month. Please refund me today!"}
    with container(lm_image, LM_MODEL="local") as running:
        running.client.post("/programs", json=program).raise_for_status()
        for version in ("v1", "v2"):
            path = f"/programs/{program['id']}/execute"
            answer = running.client.post(path, json={"inputs": inputs}, headers={"X-Pool-Version": version})
            assert answer.status_code == 200, answer.text
            outputs = answer.json()["outputs"]
            assert outputs.keys() == {output["name"] for output in program["signature"]["outputs"]}
            assert isinstance(outputs["urgent"], bool)
            assert answer.json()["usage"]["completion_tokens"] > 0
        assert running.exec("id", "-u").stdout.strip() == "10001"
        written = running.exec("find", "/", "-xdev", "-newer", "/proc/1/stat", "-type", "f", check=False).stdout
        assert not written.strip()


def test_is_as_big_as_the_readme_says(lm_image: str) -> None:
    """The optional groups are big, the service is not."""
    assert_size_of_the_readme(lm_image, "lm local-model")
