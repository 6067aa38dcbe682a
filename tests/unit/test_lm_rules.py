"""An LM's address has no secret in it, and nothing that cannot be part of a URL."""

import pytest
from pydantic import TypeAdapter, ValidationError

from config.lm import ApiBase

ADAPTER = TypeAdapter(ApiBase)
GOOD = ["http://127.0.0.1:11434/v1", "https://lm.example", "https://[::1]:8080/v1/", "http://a.example/a%20b"]
BAD = [
    *(f"http://a.example/v1{more}" for more in ("#", "#a", "?", "?key=a", "?#", "\0", "\n", "\t#", " ", "\\", "é")),
    *(f"http://{who}@a.example/v1" for who in ("", "user", "user:password", ":", "%00")),
    "http://a.example:99999/v1",
    "http://a.example:port/v1",
    "ftp://a.example",
    "http://",
    "http:///v1",
    "a.example",
    "",
    "\nhttp://a.example",
]


@pytest.mark.parametrize("address", GOOD)
def test_an_address_is_taken_as_it_is(address: str) -> None:
    """Nothing is added or dropped."""
    assert ADAPTER.validate_python(address) == address


@pytest.mark.parametrize("address", BAD)
def test_what_could_hide_a_secret_is_refused(address: str) -> None:
    """Nor does the error's message repeat it."""
    with pytest.raises(ValidationError) as refused:
        ADAPTER.validate_python(address)
    assert address not in refused.value.errors(include_input=False)[0]["msg"] or not address
