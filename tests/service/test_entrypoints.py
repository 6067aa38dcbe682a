"""A refused entrypoint: the creation's answer says what it is and what is expected."""

from pathlib import Path

import pytest

from tests.support.service import Service


@pytest.mark.parametrize(
    ("entrypoint", "says"),
    [
        ("examples.text.keywords", "an entrypoint is `module:function` or `module:Class`, as `shop.prices:quote`"),
        ("examples.text:Class.method", "got 'examples.text:Class.method'"),
        ("examples.text:", "got 'examples.text:'"),
        ("examples.text:nothing", "'examples.text' has no function or class 'nothing'"),
        ("tests.support.programs:Path", f"'Path' is defined in '{Path.__module__}', which is not allowed"),
        ("shutil:rmtree", "module 'shutil' is not allowed; PROGRAM_MODULES allows "),
        ("tests.support.programs:os", "is a module; an entrypoint is `module:function`"),
    ],
)
def test_an_entrypoint_that_is_refused(shared_service: Service, entrypoint: str, says: str) -> None:
    """In words, and not by a regular expression."""
    signature = {"inputs": [], "outputs": [{"name": "result", "type": "string"}]}
    body = {"program_type": "python", "entrypoint": entrypoint, "signature": signature}
    answer = shared_service.client.post("/programs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert says in answer.json()["detail"]
    assert "body.entrypoint" in answer.json()["detail"]
    assert "[A-Za-z_]" not in answer.text
