"""An LM's key is masked in whatever form an endpoint or a library repeats it."""

import base64
import html
import json
import string
import urllib.parse

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from poolshift.worker.dspy.redaction import MASK, redacted

KEYS = st.text(alphabet=string.ascii_letters + string.digits + string.punctuation, min_size=12, max_size=40)
ESCAPES = {
    "as it stands": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda key: json.dumps(json.dumps(key)),
    "JSON with all escaped": lambda key: "".join(f"\\u{ord(one):04X}" for one in key),
    "JSON with slashes escaped": lambda key: json.dumps(key).replace("/", "\\/"),
    "repr": repr,
    "bytes": lambda key: repr(key.encode()),
    "a URL": lambda key: urllib.parse.quote(key, safe=""),
    "a URL in lower case": lambda key: "".join(f"%{ord(one):02x}" for one in key),
    "a URL in a URL": lambda key: urllib.parse.quote(urllib.parse.quote(key, safe=""), safe=""),
    "a form": lambda key: urllib.parse.urlencode({"key": key}),
    "HTML": html.escape,
    "HTML in HTML": lambda key: html.escape(html.escape(key)),
    "HTML by number": lambda key: "".join(f"&#{ord(one)};" for one in key),
    "a Python literal": lambda key: "".join(f"\\x{ord(one):02x}" for one in key),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
@given(key=KEYS, before=st.text(max_size=9), after=st.text(max_size=9))
def test_an_escaped_key_is_masked(escape: object, key: str, before: str, after: str) -> None:
    """Nothing of the key is left between what stood before it and behind it."""
    assert callable(escape)
    written = escape(key)
    said = redacted(f"{before} {written} {after}", key)
    assert MASK in said
    assert written not in said
    assert len(said) <= len(before) + len(after) + 2 + len(MASK) + 12  # quotes and the name of a form's field


@given(key=KEYS, before=st.binary(max_size=9), after=st.binary(max_size=9))
def test_a_key_in_base64_is_masked(key: str, before: bytes, after: bytes) -> None:
    """Alone or amid something, as in an Authorization header of the kind Basic: at most two letters of it are left."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        written = encode(before + key.encode() + after).decode()
        said = redacted(written, key)
        assert MASK in said
        left = [piece for piece in said.split(MASK) if piece]
        assert sum(map(len, left)) <= (len(before) + len(after)) * 4 / 3 + 10


@given(key=KEYS, text=st.text(max_size=80))
def test_other_text_stays(key: str, text: str) -> None:
    """Redaction leaves a text without the key unchanged."""
    assume(key not in text)
    assert redacted(text, key) == text
