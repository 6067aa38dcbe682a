"""Whatever an LM writes, in whatever pieces it comes: what is said of a text is what DSPy reads from the whole."""

import json
from collections import defaultdict
from functools import cache
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from poolshift.worker.dspy.output_text import ChatText, JSONText, OutputText
from tests.lm.lazily import dspy, needs_dspy

pytestmark = needs_dspy
_BREAKS = ["\n", "\r\n", "\r", "\x85", "\u2028"]
_HEADERS = ["[[ ## a ## ]]", "[[ ## b ## ]]", "[[ ## completed ## ]]", "[[ ## a", "[[", "[", "]]"]
WRITTEN = st.lists(st.sampled_from([*_BREAKS, *_HEADERS, " ", "\t", "x", "yy", "😀"]), max_size=24).map("".join)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=12)


@cache
def signature() -> Any:
    """The fields that the texts are about."""
    return dspy.Signature("question -> a, b")


def pieces(text: str, cuts: list[int]) -> list[str]:
    """The text in pieces of these lengths, again and again."""
    found: list[str] = []
    while text:
        length = cuts[len(found) % len(cuts)]
        found.append(text[:length])
        text = text[length:]
    return found


def said(reader: OutputText, text: str, cuts: list[int]) -> dict[str, str]:
    """Joins the pieces that the reader returns for each field."""
    together: dict[str, str] = defaultdict(str)
    for written in pieces(text, cuts):
        for name, piece in reader.feed(written):
            assert piece
            together[name] += piece
    return together


@given(first=WRITTEN, second=WRITTEN, cuts=CUTS)
@example(first=" x \n y ", second="[[ ## a ## ]] z", cuts=[1])
@example(first="\r", second="\n", cuts=[1])
def test_a_chat_adapters_answer(first: str, second: str, cuts: list[int]) -> None:
    """All that is said is the beginning of what DSPy reads."""
    text = f"[[ ## a ## ]]\n{first}\n\n[[ ## b ## ]]\n{second}"
    try:
        read = dspy.ChatAdapter().parse(signature(), text)
    except dspy.AdapterParseError:
        return
    for name, piece in said(ChatText(), text, cuts).items():
        assert read.get(name, piece).startswith(piece)


@given(first=st.text(max_size=20), second=st.text(max_size=20), cuts=CUTS, is_ascii=st.booleans())
@example(first='"\\\n😀 ', second=" ", cuts=[1], is_ascii=True)
def test_a_json_adapters_answer(first: str, second: str, cuts: list[int], is_ascii: bool) -> None:
    """All of each text is said, but for blanks at its end."""
    text = json.dumps({"a": first, "n": 1.5, "b": second}, ensure_ascii=is_ascii, indent=1)
    found = said(JSONText(), text, cuts)
    assert (found["a"], found["b"]) == (first.rstrip(), second.rstrip())


def test_a_plain_answer_is_said_at_once() -> None:
    """Each piece as it comes: only what may be a header, or blanks at the end, is held back."""
    reader = ChatText()
    fed = ["[[ ## a", " ## ]]", "\n", "One", " two", " ", "three", "\n", "\n", "[[ ##", " b ## ]]\nfour"]
    assert [reader.feed(one) for one in fed] == [
        [], [], [], [("a", "One")], [("a", " two")], [], [("a", " three")], [], [], [], [("b", "four")],
    ]  # fmt: skip
