"""What an LM's address and key may be, whoever says so: the environment or a client."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")


def _plain_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be an http or https URL")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ValueError("must have no credentials, query or fragment: the key is the place for a secret")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    # A library would repeat what cannot go into a header in its error, escaped, where nobody knows it for the key.
    if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
        raise ValueError("must be visible ASCII characters, without a space or a line break")
    return value


ApiBase = Annotated[str, AfterValidator(_plain_url)]
"""Shown to whoever may call programs, so it has no secret."""
ApiKey = Annotated[SecretStr, AfterValidator(_header_value)]
