"""Rules for an LM's address and key, whether the environment or a client sets them."""

import re
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

_VISIBLE = re.compile(r"[\x21-\x7e]+")


def _plain_url(value: str) -> str:
    # `urlsplit` drops line breaks and an empty fragment without a word, so the text itself is looked at first.
    if not _VISIBLE.fullmatch(value):
        raise ValueError("must be visible ASCII characters, without a space or a line break")
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be an http or https URL")
    if "@" in url.netloc or "?" in value or "#" in value:
        raise ValueError("must have no credentials, query or fragment: the key is the place for a secret")
    if "\\" in value:
        raise ValueError("must have no backslash")
    _ = url.port  # raises ValueError if it is not a port
    return value


def _header_value(value: SecretStr) -> SecretStr:
    # A library would repeat a key that cannot go into a header in its error, escaped.
    if not _VISIBLE.fullmatch(value.get_secret_value()):
        raise ValueError("must be visible ASCII characters, without a space or a line break")
    return value


ApiBase = Annotated[str, AfterValidator(_plain_url)]
"""Shown to whoever may call programs, so it holds no secret."""
ApiKey = Annotated[SecretStr, AfterValidator(_header_value)]


class ConfiguredLM(NamedTuple):
    """The LM that the environment names."""

    model: str
    api_base: str | None
    api_key: SecretStr | None
