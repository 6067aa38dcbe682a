"""Large JSON is split and checked without a scan on the event loop, with the results that a scan has."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.execute.envelopes import Envelope
from app.execute.large_body import envelope_of
from pools.process.json_check import check_json, is_json

_TEXT = st.text(alphabet='"{}[],:\\ inputs\u00e9', max_size=12)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(_TEXT, _VALUES, max_size=4)
_MEMBERS = st.permutations(
    [("inputs", None), ("session_id", "s-1"), ("timeout_s", 2.5), ("webhook", 'http://x/}"{a"inputs"')]
)


def _scanned(body: bytes) -> Envelope | None:
    """The envelope as a scan of the whole body finds it; None for a body that is wrong."""
    try:
        envelope = msgspec.json.decode(body, type=Envelope)
        msgspec.json.decode(envelope.inputs, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return envelope


@given(_OBJECTS, _MEMBERS, st.integers(1, 4), st.booleans())
def test_an_envelope_is_that_of_a_scan(inputs: Any, members: Any, count: int, spaced: bool) -> None:
    """Whichever members stand before and behind the inputs, and whatever braces and quotes are in them."""
    body = {name: inputs if name == "inputs" else value for name, value in members[:count]}
    text = json.dumps(body, indent=1 if spaced else None, ensure_ascii=False).encode()
    found, scanned = envelope_of(text), _scanned(text)
    if found is not None:
        assert scanned is not None
        assert bytes(found.inputs) == bytes(scanned.inputs)
        assert (found.session_id, found.timeout_s, found.webhook) == (
            scanned.session_id,
            scanned.timeout_s,
            scanned.webhook,
        )


@given(_OBJECTS, st.data())
def test_a_body_that_is_no_json_has_inputs_that_are_none(inputs: Any, data: st.DataObject) -> None:
    """A body with a byte too many, too few or another: the worker refuses the inputs if the envelope is found."""
    body = bytearray(json.dumps({"session_id": "s", "inputs": inputs, "timeout_s": 1}).encode())
    place = data.draw(st.integers(0, len(body) - 1))
    change = data.draw(st.sampled_from(["drop", "repeat", "replace"]))
    other = data.draw(st.sampled_from(b'{}[]",:x1 '))
    body[place : place + 1] = {"drop": b"", "repeat": body[place : place + 1] * 2, "replace": bytes([other])}[change]
    found, scanned = envelope_of(bytes(body)), _scanned(bytes(body))
    if found is not None:
        try:
            msgspec.json.decode(found.inputs, type=dict[str, Any])
        except msgspec.DecodeError:
            assert scanned is None
        else:
            assert scanned is not None
            assert bytes(found.inputs) == bytes(scanned.inputs)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"inputs":1}', b'{"inputs":[{}]}', b'{"inputs":{}', b"}" * 9],
)
def test_what_only_a_scan_can_tell(body: bytes) -> None:
    """Such bodies are left to a scan."""
    assert envelope_of(body) is None


def test_the_usual_forms_need_no_scan() -> None:
    """Inputs alone, and between other members."""
    for body in (b'{"inputs":{"a":{}}}', b' { "session_id" : "s", "inputs" : {"a":[{}]} , "timeout_s" : 1 } '):
        assert envelope_of(body) is not None


@given(st.one_of(_VALUES.map(json.dumps), _TEXT, st.just("{}\0"), st.just("1 2"), st.just("")))
def test_a_json_check_is_that_of_the_standard_library(text: str) -> None:
    """Any text is JSON for both, or for neither."""
    try:
        json.loads(text, parse_constant=pytest.fail)
        expected = True
    except ValueError:
        expected = False
    assert is_json(memoryview(text.encode())) == expected


@pytest.mark.parametrize("place", [0, 256 * 1024 - 1, 256 * 1024, 600_000])
def test_text_that_is_not_utf8_is_not_json(place: int) -> None:
    """Wherever the wrong byte stands; a character across two slices is right."""
    text = bytearray(b'"' + "é".encode() * 300_000 + b'"')
    assert is_json(memoryview(text))
    text[place : place + 1] = b"\xff"
    assert not is_json(memoryview(text))


def test_a_check_goes_on_beside_the_event_loop() -> None:
    """The answer comes in a later turn of the event loop, and at once if no thread can be had."""

    async def check(text: bytes) -> tuple[bool, bool]:
        loop = asyncio.get_running_loop()
        known: asyncio.Future[bool] = loop.create_future()
        check_json(memoryview(text), loop, known.set_result)
        at_once = known.done()
        return at_once, await known

    async def check_without_threads(text: bytes) -> tuple[bool, bool]:
        await asyncio.get_running_loop().shutdown_default_executor()
        return await check(text)

    for text, expected in ((b"[1]", True), (b"[1", False)):
        assert asyncio.run(check(text)) == (False, expected)
        assert asyncio.run(check_without_threads(text)) == (True, expected)
