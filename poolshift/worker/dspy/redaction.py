"""Removes an LM's key from text in which an endpoint or a library repeats it, escaped in whatever way."""

import base64
import re
from functools import lru_cache

MASK = "…"
_NAMED = {'"': "quot", "&": "amp", "<": "lt", ">": "gt", "'": "apos"}


def redacted(text: str, secret: str) -> str:
    """Masks `secret` as it stands, and as JSON, a URL, HTML, a Python literal or base64 would have it."""
    return _pattern(secret).sub(MASK, text)


@lru_cache(maxsize=64)
def _pattern(secret: str) -> re.Pattern[str]:
    escaped = "".join(_any_form(character) for character in secret)
    return re.compile("|".join([escaped, *map(re.escape, _in_base64(secret.encode()))]))


def _any_form(character: str) -> str:
    """A pattern for a character and its escapes; text that was escaped twice has several backslashes or `%25`.

    The escapes come first: a key with a backslash looks like the beginning of its own escape.
    """
    code = ord(character)
    hexadecimal = rf"0{{0,6}}(?i:{code:x})"
    forms = [
        rf"\\{{1,8}}(?:u\{{?|x|U){hexadecimal}\}}?",
        rf"%(?:25){{0,3}}(?i:{code:02x})",
        rf"&(?:amp;){{0,3}}(?:\#0{{0,6}}{code}|\#[xX]{hexadecimal});",
    ]
    if name := _NAMED.get(character):
        forms.append(rf"&(?:amp;){{0,3}}{name};")
    forms.append(rf"\\{{0,8}}{re.escape(character)}")
    return f"(?:{'|'.join(forms)})"


def _in_base64(secret: bytes) -> set[str]:
    """The secret inside base64 of something longer: at each of three offsets, without what its neighbours decide."""
    found = set()
    for offset in range(3):
        padded = b"\0" * offset + secret
        whole = padded[: len(padded) - len(padded) % 3]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(whole).decode()[(offset * 8 + 5) // 6 :])
    return {one for one in found if len(one) >= 8}
