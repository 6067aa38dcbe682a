"""The texts of outputs, found in an LM's answer while it comes: just what DSPy's adapters read from the whole of it.

DSPy's own `StreamListener` hands JSON on as it is written, quotes and escapes too: that adds up to another text.
"""

import re
from typing import Protocol

from pydantic_core import from_json

Piece = tuple[str, str]
"""A field's name, and what comes next of its text."""

_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")
_HEADER_BEGINS = "[["


class OutputText(Protocol):
    """Reads one answer. What it holds back, such as white space that may be the text's end, is never said."""

    def feed(self, written: str) -> list[Piece]:
        """The pieces that are known after the LM has `written` more."""
        ...


class JSONText:
    """Reads the answer to a JSONAdapter: one object.

    It is read from its beginning each time: what is decoded under a schema is short.
    """

    def __init__(self) -> None:
        self._written = ""
        self._known: dict[str, int] = {}

    def feed(self, written: str) -> list[Piece]:
        self._written += written
        try:
            fields = from_json(self._written, allow_partial="trailing-strings")
        except ValueError:
            return []
        pieces = []
        for name, value in fields.items() if isinstance(fields, dict) else ():
            known = self._known.get(name, 0)
            # An answer that is cut off is repaired, without the white space at its end.
            if isinstance(value, str) and (piece := value.rstrip()[known:]):
                self._known[name] = known + len(piece)
                pieces.append((name, piece))
        return pieces


class ChatText:
    """Reads the answer to a ChatAdapter: fields under headers, each text stripped, its lines those of `splitlines`."""

    def __init__(self) -> None:
        self._line = ""
        self._is_begun = False
        self._taken = 0
        self._seen: set[str] = set()
        self._field: str | None = None
        self._has_text = False
        self._blanks = ""

    def feed(self, written: str) -> list[Piece]:
        *lines, self._line = _lines(self._line + written)
        pieces = []
        for line in lines:
            pieces += self._read(line)
            if _HEADER.match(line.strip()):
                self._blanks = ""  # text that stands beside a header is stripped by itself
            self._is_begun, self._taken = False, 0
        line = self._line.removesuffix("\r")
        begins = line.lstrip()
        # Until such a line is whole it may be a header.
        if begins[: len(_HEADER_BEGINS)] != _HEADER_BEGINS[: len(begins)] or _HEADER.match(begins):
            pieces += self._read(line)
        return pieces

    def _read(self, line: str) -> list[Piece]:
        """The new part of a line, which is read again when the LM has written more of it."""
        header = _HEADER.match(line.strip())
        pieces = []
        if not self._is_begun:
            self._is_begun = True
            if header is None:
                pieces += self._say("\n")
            else:
                self._enter(header[1])
        text = line if header is None else line[header.end() :]
        new, self._taken = text[self._taken :], len(text)
        return pieces + self._say(new)

    def _enter(self, name: str) -> None:
        self._field = None if name in self._seen else name  # of two with one name the first counts
        self._seen.add(name)
        self._has_text, self._blanks = False, ""

    def _say(self, text: str) -> list[Piece]:
        """Holds blanks back until text follows them."""
        text = self._blanks + text
        said = text.rstrip()
        self._blanks = text[len(said) :] if said or self._has_text else ""
        if not self._has_text:
            said = said.lstrip()
        if not said or self._field is None:
            return []
        self._has_text = True
        return [(self._field, said)]


def _lines(text: str) -> list[str]:
    """The lines of a text that goes on, without their breaks; the last is the one that is not over."""
    # After a carriage return, a line feed of the same break may follow.
    known, held = (text[:-1], "\r") if text.endswith("\r") else (text, "")
    lines = f"{known}|".splitlines()
    return [*lines[:-1], lines[-1][:-1] + held]
