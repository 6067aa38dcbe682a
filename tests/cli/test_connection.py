"""The service's address, a service that is not there, and output on a terminal."""

import http.server
import json
import os
import pty
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import SCRIPT, Poolshift
from tests.support.service import Service, free_port


@contextmanager
def web_server(status: int, content: str, **headers: str) -> Iterator[str]:
    """The address of a web server that always answers the same, and is no Poolshift."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_the_option_wins_over_the_variable(operator: Poolshift, service: Service) -> None:
    """And a URL may end with a slash."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    elsewhere = operator.at(nowhere)
    assert elsewhere.fails(3, "rollout", "get") == f"{nowhere}: [Errno 111] Connection refused"
    expected = service.client.get("/rollout").json()
    assert elsewhere.json("rollout", "get", "--url", service.url) == expected
    assert elsewhere.json("rollout", "get", "--url", f"{service.url}/") == expected


@pytest.mark.parametrize("words", [("pools", "--url", "URL", "show", "v1"), ("--url", "URL", "pools", "show", "v1")])
def test_the_option_comes_after_the_subcommand(poolshift: Poolshift, words: tuple[str, ...]) -> None:
    """Before it, the option is a usage error, as the page says."""
    assert "No such option: --url" in poolshift.fails(2, *words)


def test_a_service_that_does_not_answer(poolshift: Poolshift) -> None:
    """Exit code 3 after `--timeout`; of a change it is said that it may have been made."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        asks = poolshift.at(url)
        assert asks.fails(3, "rollout", "get", "--timeout", 0.2) == f"{url}: no answer within 0.2 s"
        complaint = asks.fails(3, "rollout", "rollback", "--timeout", 0.2)
        assert complaint == f"{url}: no answer within 0.2 s; whether it was done is not known"


@pytest.mark.parametrize(
    ("status", "content", "headers"),
    [
        (200, "<html></html>", {}),
        (200, "{}", {}),
        (200, '["a"]', {}),
        (200, "null", {}),
        (302, "", {"location": "/login"}),
        (404, "{}", {}),
        (502, "Bad Gateway", {}),
    ],
)
def test_what_answers_is_not_poolshift(
    poolshift: Poolshift, status: int, content: str, headers: dict[str, str]
) -> None:
    """A proxy's page, a login, another service: exit code 3, and no traceback."""
    with web_server(status, content, **headers) as url:
        assert poolshift.at(url).fails(3, "rollout", "get").startswith(f"{url}: ")


def test_when_to_try_again(poolshift: Poolshift) -> None:
    """The service's own words are passed on."""
    problem = {"code": "pool_overloaded", "detail": "the queue is full"}
    with web_server(503, json.dumps(problem), **{"retry-after": "7"}) as url:
        assert poolshift.at(url).fails(1, "rollout", "get") == "pool_overloaded: the queue is full (try again in 7 s)"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://localhost", "http://", "http://a:b", "http://a/?b=c"])
def test_a_url_that_is_none(poolshift: Poolshift, url: str) -> None:
    """Exit code 2."""
    assert poolshift.fails(2, "rollout", "get", "--url", url).startswith("Invalid value for --url: ")


def test_a_password_in_the_url_is_refused_and_not_shown(poolshift: Poolshift) -> None:
    """A key has no place on a command line."""
    complaint = poolshift.fails(2, "rollout", "get", "--url", "http://ops:secret@127.0.0.1")
    assert "POOLSHIFT_API_KEY" in complaint
    assert "secret" not in complaint


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"psk_\xc3\xa4", b"\xff", b"a\nb"])
def test_a_file_that_holds_no_key(operator: Poolshift, tmp_path: Path, content: bytes) -> None:
    """Exit code 2 and the name of the file, nothing of its content."""
    path = tmp_path / "key"
    path.write_bytes(content)
    complaint = operator.fails(2, "rollout", "get", "--api-key-file", path)
    assert complaint.startswith(f"{path}: ")
    assert "psk_" not in complaint
    missing = tmp_path / "missing"
    assert operator.fails(2, "rollout", "get", POOLSHIFT_API_KEY_FILE=str(missing)).startswith(f"{missing}: ")


def on_a_terminal(poolshift: Poolshift, *arguments: str, **environment: str) -> str:
    """Returns the command's output on a terminal."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [SCRIPT, *arguments],
            env={**poolshift.environment, "TERM": "xterm", **environment},
            cwd=poolshift.directory,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            timeout=60,
            check=True,
        )
        os.close(theirs)
        theirs = -1
        return "".join(chunk.decode() for chunk in _chunks(lambda: os.read(ours, 4096)))
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def _chunks(read: Callable[[], bytes]) -> Iterator[bytes]:
    while True:
        try:
            chunk = read()
        except OSError:  # how Linux says that the other end of a terminal is closed
            return
        if not chunk:
            return
        yield chunk


def test_only_a_terminal_gets_colours(operator: Poolshift) -> None:
    """A pipe gets none even where the environment asks for them, and JSON has none anywhere."""
    assert "\x1b[" in on_a_terminal(operator, "pools")
    assert "\x1b[" not in on_a_terminal(operator, "pools", "--json")
    for arguments in (("pools",), ("rollout", "get"), ("--help",), ("rollout", "set", "--help")):
        assert "\x1b" not in operator.succeeds(*arguments, FORCE_COLOR="1", GITHUB_ACTIONS="true", TERM="xterm")
    complaint = operator.fails(2, "bogus", FORCE_COLOR="1", GITHUB_ACTIONS="true")
    assert "\x1b" not in complaint


def test_a_pipe_gets_whole_lines(operator: Poolshift) -> None:
    """However long a reason is; on a terminal it is folded into its width."""
    reason = "word " * 60 + "end"
    operator.succeeds("rollout", "set", "4", "--reason", reason)
    assert any(reason in line for line in operator.succeeds("rollout", "history").splitlines())
    assert reason not in on_a_terminal(operator, "rollout", "history", COLUMNS="80")


def test_what_others_wrote_cannot_steer_the_terminal(operator: Poolshift) -> None:
    """A reason with control characters is shown with them spelt out; in JSON they are what JSON makes of them."""
    reason = "calm\x1b[2J\r\nvoice \u202e"
    operator.succeeds("rollout", "set", "4", "--reason", reason)
    shown = on_a_terminal(operator, "rollout", "get", NO_COLOR="1")
    assert r"calm\x1b[2J\r\nvoice \u202e" in shown
    assert operator.json("rollout", "get")["reason"] == reason


def test_letters_that_the_locale_has_not(operator: Poolshift) -> None:
    """They are spelt out rather than a reason to fail."""
    operator.succeeds("rollout", "set", "4", "--reason", "größer", PYTHONUTF8="1")
    assert r"gr\xf6\xdfer" in operator.succeeds("rollout", "get", PYTHONIOENCODING="ascii")
    assert operator.json("rollout", "get", PYTHONIOENCODING="ascii")["reason"] == "größer"


def test_a_reader_that_has_enough(operator: Poolshift) -> None:
    """`| head -1` ends it without a traceback."""
    command = subprocess.Popen(
        [SCRIPT, "rollout", "history", "--json", "--limit", "1000"],
        env=operator.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    command.stdout.close()
    assert command.stderr is not None
    with command.stderr:
        assert command.stderr.read() == ""
    command.wait(20)
