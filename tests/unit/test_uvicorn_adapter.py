"""uvicorn is what `app.execute.uvicorn_adapter` takes it for: another version must be looked at before it is served."""

import inspect
import re
import tomllib

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.utils import get_local_addr
from uvicorn.server import ServerState

from app.execute.uvicorn_adapter import SEEN_WITH
from tests.support.service import ROOT

PROTOCOL = httptools_impl.HttpToolsProtocol
CYCLE = httptools_impl.RequestResponseCycle


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def test_the_installed_version_is_one_that_was_looked_at() -> None:
    assert minor(uvicorn.__version__) in SEEN_WITH


def test_no_version_is_installed_that_was_not_looked_at() -> None:
    """The bounds in pyproject.toml are those of `SEEN_WITH`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (bounds,) = (one for one in project["project"]["dependencies"] if one.startswith("uvicorn>="))
    lowest, above = re.fullmatch(r"uvicorn>=(0\.\d+),<0\.(\d+)", bounds).groups()  # type: ignore[union-attr]
    assert (lowest, f"0.{int(above) - 1}") == (SEEN_WITH[0], SEEN_WITH[-1])


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (PROTOCOL.__init__, ["self", "config", "server_state", "app_state", "_loop"]),
        (PROTOCOL.connection_made, ["self", "transport"]),
        (PROTOCOL.connection_lost, ["self", "exc"]),
        (PROTOCOL.data_received, ["self", "data"]),
        (PROTOCOL.send_400_response, ["self", "msg"]),
        (PROTOCOL.on_message_complete, ["self"]),
        (PROTOCOL.on_response_complete, ["self"]),
        (PROTOCOL.shutdown, ["self"]),
        (PROTOCOL.pause_writing, ["self"]),
        (PROTOCOL.resume_writing, ["self"]),
        (get_local_addr, ["transport"]),
    ],
)
def test_what_is_called_or_overridden_takes_the_same(function: object, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("owner", "attributes"),
    [
        (PROTOCOL.__init__, {"connections", "cycle", "flow", "logger", "tasks"}),
        (CYCLE.__init__, {"chunked_encoding", "response_complete", "response_started"}),
        (ServerState.__init__, {"connections", "default_headers", "tasks"}),
    ],
)
def test_what_is_read_is_there(owner: object, attributes: set[str]) -> None:
    """Attributes that their `__init__` sets."""
    set_there = set(re.findall(r"self\.(\w+)\b[^=\n]*=", inspect.getsource(owner)))  # type: ignore[arg-type]
    assert attributes <= set_there


def test_a_request_tells_the_protocol_that_it_is_answered() -> None:
    """By the method that the adapter overrides; and there is a line for every status."""
    assert "on_response=self.on_response_complete" in inspect.getsource(PROTOCOL.on_headers_complete)
    assert all(httptools_impl.STATUS_LINE[status].startswith(b"HTTP/1.1 %d " % status) for status in range(200, 600))
