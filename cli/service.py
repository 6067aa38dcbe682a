"""The service that a command talks to, through the client of `poolshift.client`."""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import httpx
import typer

from cli.errors import CommandFailed, ExitCode, refused
from poolshift.client import (
    NO_RETRY,
    Answer,
    Call,
    Client,
    Event,
    Execution,
    JobNotOver,
    Listing,
    NoAnswer,
    PoolshiftError,
    executions,
)
from poolshift.client.options import DEFAULT_URL

CONNECT_TIMEOUT_S = 5.0
T = TypeVar("T")

_Url = Annotated[str, typer.Option("--url", envvar="POOLSHIFT_URL", help="Address of the service.")]
_ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        envvar="POOLSHIFT_API_KEY_FILE",
        help="A file with the API key; without it POOLSHIFT_API_KEY has the key.",
    ),
]
_Timeout = Annotated[float, typer.Option("--timeout", min=0.001, max=86400, help="Seconds to wait for an answer.")]


class Service:
    """Poolshift over HTTP. Every failure is a CommandFailed; each call is tried once, and a person can try again."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        try:
            self._client = Client(
                url,
                api_key=api_key or "",
                timeout_s=timeout_s,
                connect_timeout_s=min(timeout_s, CONNECT_TIMEOUT_S),
                retry=NO_RETRY,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--url") from None
        self._url = url
        self._http: httpx.Client | None = None
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s = timeout_s

    @property
    def http(self) -> httpx.Client:
        """A plain client of the service, for a command that measures thousands of requests and their raw answers."""
        if self._http is None:
            timeout = httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, CONNECT_TIMEOUT_S))
            self._http = httpx.Client(base_url=self._url, headers=self._headers, timeout=timeout)
        return self._http

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        if self._http is not None:
            self._http.close()

    def ask(self, call: Call[Any]) -> Any:
        """Makes a call and returns the JSON as the service has sent it; None if it has sent nothing."""
        return self.answer(call).json()

    def answer(self, call: Call[T]) -> Answer[T]:
        """Makes a call and returns its answer."""
        with self._failures():
            return self._client.answer(call)

    def items(self, listing: Listing[Any]) -> list[Any]:
        """Lists items, page by page, as the service has sent them."""
        with self._failures():
            return [item for page in self._client.listed(listing).pages() for item in page.json()["items"]]

    def events(self, call: Call[Execution]) -> Iterator[Event]:
        """Yields the events of a stream as they come."""
        with self._failures(), self._client.streamed(call) as stream:
            yield from stream

    def wait(self, execution_id: str, timeout_s: float | None) -> Any:
        """Waits for a job and returns its result as the service has sent it."""
        with self._failures():
            self._client.jobs.wait(execution_id, timeout_s=timeout_s)
            return self._client.answer(executions.show(execution_id)).json()["result"]

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except NoAnswer as error:
            raise CommandFailed(ExitCode.UNREACHABLE, f"{self._url}: {error.detail}") from None
        except JobNotOver as error:
            raise CommandFailed(ExitCode.UNREACHABLE, str(error)) from None
        except PoolshiftError as error:
            raise refused(error) from None


def on_service(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command` the service as its first argument, and the options for its address."""

    def run(
        *,
        url: _Url = DEFAULT_URL,
        api_key_file: _ApiKeyFile = None,
        timeout_s: _Timeout = 60.0,
        **arguments: Any,
    ) -> None:
        with Service(url, _api_key(api_key_file), timeout_s) as service:
            try:
                command(service, **arguments)
            except (KeyError, TypeError) as error:  # JSON, but not the JSON that this command knows
                why = f"the answer is not one of this version of Poolshift ({error!r})"
                raise CommandFailed(ExitCode.UNREACHABLE, f"{url}: {why}") from error
            except ValueError as error:  # an argument that no request can have
                raise CommandFailed(ExitCode.USAGE, str(error)) from error

    _, *own = inspect.signature(command).parameters.values()
    *shared, _ = inspect.signature(run).parameters.values()
    vars(run)["__signature__"] = inspect.Signature([*own, *shared])
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _api_key(path: Path | None) -> str | None:
    """Reads the key to send. Never an option: every user of the machine can read the arguments."""
    if path is None:
        return one_word(os.environ.get("POOLSHIFT_API_KEY", ""), "POOLSHIFT_API_KEY") or None
    return key_of_file(path)


def key_of_file(path: Path) -> str:
    """Reads a key from a file of its own."""
    try:
        key = one_word(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if not key:
        raise CommandFailed(ExitCode.USAGE, f"{path}: the file has no API key")
    return key


def one_word(text: str, where: str) -> str:
    """Checks that a text can be a key, and takes the blanks around it away."""
    word = text.strip()
    if not (word.isascii() and all(char.isprintable() and char != " " for char in word)):
        raise CommandFailed(ExitCode.USAGE, f"{where}: the content is not an API key")
    return word
