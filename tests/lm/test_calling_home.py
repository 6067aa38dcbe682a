"""Nobody is told that this runs: no price list, no telemetry, no version check; only the LM is called."""

from pathlib import Path

from tests.conftest import StartService
from tests.lm.conftest import SMALL, create, field, on
from tests.lm.endpoint import Endpoint
from tests.service.test_streaming import EVENTS
from tests.support.service import POOLSHIFT, ROOT

# Every Python process of the service runs this at its start: it notes whom anything looks up or connects to.
_NOTES = """
import os, sys

def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        where = arguments[0] if event.startswith("socket.get") else arguments[1]
        with_host = where[0] if isinstance(where, tuple) else where
        notes = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(notes, f"{{with_host}}\\n".encode())
        os.close(notes)

sys.addaudithook(note)
"""


def test_only_the_lm_is_called(start_service: StartService, endpoint: Endpoint, tmp_path: Path) -> None:
    """At the start, at a call, at a streamed one; where DSPy speaks to the LM itself, and where it does by LiteLLM."""
    notes = tmp_path / "notes"
    (tmp_path / "sitecustomize.py").write_text(_NOTES.format(path=str(notes)))
    lm = {"LM_MODEL": "openai/test", "LM_API_BASE": endpoint.base("answers"), "LM_API_KEY": "k"}
    # The first call imports LiteLLM, which takes half a minute on a busy machine.
    settings = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "EXECUTION_TIMEOUT_S": 300, **SMALL, **lm}
    service = start_service(command=POOLSHIFT, **settings)
    body = {"model": "mistral/test", "api_base": endpoint.base("answers"), "api_key": "k"}
    assert service.client.put("/sessions/by-litellm/lm", json=body).status_code == 200
    program = create(service, [field("text")], [field("topic")])
    for session in (None, "by-litellm"):
        for headers in ({}, EVENTS):
            answer = service.execute(program, on("v2") | headers, inputs={"text": "x"}, session_id=session)
            assert answer.status_code == 200, answer.text
            assert '"topic":"one k"' in answer.text
    assert "LiteLLM" not in service.log()  # nor is the log filled at each call
    assert service.metric("poolshift_lm_executions_total", pool_version="v2", model="openai/test") == 2
    assert 'poolshift_lm_cost_total{model="openai/test"' not in service.client.get("/metrics").text
    assert "the cost of its calls is unknown" in service.log()  # so the list of prices is there
    assert set(notes.read_text().split()) == {"127.0.0.1"}
