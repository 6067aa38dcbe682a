"""What clients' texts may be: the rule of ids, and what the store can hold."""

from typing import Any

_ID = "[A-Za-z0-9][A-Za-z0-9._~:-]*"
ID_PATTERN = f"^{_ID}$"
"""For the OpenAPI document, and for `Matching` in `app/api/base.py`."""
ID_PATTERN_OF_RE = rf"\A{_ID}\Z"
"""For Python's `re`, in which `$` would let a newline follow."""
ID_RULE = "an id has ASCII letters, digits and the characters . _ ~ : - alone, and begins with a letter or a digit"
MAX_ID_LENGTH = 128


def storable(value: Any) -> Any:
    """Refuses text that no database stores: PostgreSQL takes no NUL character.

    Pydantic itself refuses half a surrogate pair in a `str`.
    """
    if isinstance(value, str) and "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value
