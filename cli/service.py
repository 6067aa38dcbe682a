"""The client of the service that a command talks to."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote

import httpx
import typer

from cli.errors import CommandFailed, ExitCode, refused

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S = 5.0
PAGE_SIZE = 1000
"""The largest page of the service, in items."""

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
    """Poolshift over HTTP. Every failure is a CommandFailed."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._client = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
        )
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def http(self) -> httpx.Client:
        """The client itself, for a command that sends thousands of requests."""
        return self._client

    def get(self, path: str, **params: Any) -> Any:
        """Gets a resource; a parameter that is None is left out."""
        return self.send("GET", path, params=params)

    def items(self, path: str, limit: int, **params: Any) -> list[Any]:
        """Lists at most `limit` items, page by page."""
        items: list[Any] = []
        cursor: str | None = None
        while len(items) < limit:
            page = self.get(path, limit=min(limit - len(items), PAGE_SIZE), cursor=cursor, **params)
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return items

    def send(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        content: bytes | None = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Returns the response's JSON, None if the response is empty. The service parses `content` itself."""
        answer = self._exchange(method, path, json=body, content=content, params=_given(params), headers=headers)
        return self._content(answer)

    def lines(self, path: str) -> tuple[httpx.Headers, bytes]:
        """Returns the headers and the body of a response that is not one JSON document."""
        answer = self._exchange("GET", path)
        if not answer.is_success:
            self._content(answer)
        return answer.headers, answer.content

    def _exchange(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **request)
        except httpx.ConnectTimeout:
            raise self._unreachable("no connection in time") from None
        except httpx.TimeoutException:
            unknown = "" if method == "GET" else "; whether it was done is not known"
            raise self._unreachable(f"no answer within {self._timeout_s:g} s{unknown}") from None
        except httpx.TransportError as error:
            raise self._unreachable(str(error) or type(error).__name__) from None

    def _content(self, answer: httpx.Response) -> Any:
        if answer.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            content = answer.json()
        except ValueError:
            content = None
        if answer.is_success and content is not None:
            return content
        if answer.is_error and isinstance(content, dict) and "code" in content:
            raise refused(content, answer.headers.get("retry-after"))
        raise self._unreachable(f"what answers there is not Poolshift (status {answer.status_code})")

    def _unreachable(self, why: str) -> CommandFailed:
        return CommandFailed(ExitCode.UNREACHABLE, f"{self._url}: {why}")


def _given(params: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def segment(text: str) -> str:
    """Encodes one segment of a path."""
    if text in ("", ".", ".."):
        raise typer.BadParameter(f"{text!r} is no id")
    return quote(text, safe="")


def on_service(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command` the service as its first argument, and the options for its address."""

    def run(
        *,
        url: _Url = DEFAULT_URL,
        api_key_file: _ApiKeyFile = None,
        timeout_s: _Timeout = 60.0,
        **arguments: Any,
    ) -> None:
        with Service(_checked(url), _api_key(api_key_file), timeout_s) as service:
            try:
                command(service, **arguments)
            except (KeyError, TypeError) as error:  # JSON, but not the JSON that this command knows
                why = f"the answer is not one of this version of Poolshift ({error!r})"
                raise CommandFailed(ExitCode.UNREACHABLE, f"{url}: {why}") from error

    _, *own = inspect.signature(command).parameters.values()
    *shared, _ = inspect.signature(run).parameters.values()
    vars(run)["__signature__"] = inspect.Signature([*own, *shared])
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise typer.BadParameter("this is no http:// or https:// address of a service", param_hint="--url")
    if parsed.userinfo:
        raise typer.BadParameter("no password in here: POOLSHIFT_API_KEY has the key", param_hint="--url")
    return url


def _api_key(path: Path | None) -> str | None:
    """Reads the key to send. Never an option: every user of the machine can read the arguments."""
    if path is None:
        return _one_word(os.environ.get("POOLSHIFT_API_KEY", ""), "POOLSHIFT_API_KEY") or None
    try:
        key = _one_word(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        key = ""
    if not key:
        raise CommandFailed(ExitCode.USAGE, f"{path}: the file has no API key")
    return key


def _one_word(text: str, where: str) -> str:
    word = text.strip()
    if not (word.isascii() and all(char.isprintable() and char != " " for char in word)):
        raise CommandFailed(ExitCode.USAGE, f"{where}: the content is not an API key")
    return word
