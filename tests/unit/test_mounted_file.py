"""Files that an operator mounts: whatever is in them or in their place, there is a reading or a reason."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given

from config import mounted_file
from config.api_keys import InvalidKeyFile, parse_key_file, read_key_file
from config.mounted_file import InvalidDocument
from tests.support.yaml_like import DOCUMENTS

ODD = [
    b"keys: !!bool foo",
    b"keys:\n- {name: 2026-02-30}",
    b"keys: !!timestamp foo",
    b"keys: !!int ''",
    b"keys: 0b",
    b"keys: !!float ':'",
    b"[" * 5000,
    b"{keys: " + b"1" * 5000 + b"}",
    b"keys: &a [*a]",
    b"? [a]\n: 1",
    b"\xff\xfe\x00",
    b"",
]
"""Each once ended in another error than the one that was meant."""


@pytest.mark.parametrize("content", ODD, ids=lambda content: content[:20])
def test_an_odd_key_file_is_an_invalid_one(tmp_path: Path, content: bytes) -> None:
    """In one line, which names the file."""
    path = tmp_path / "keys.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidKeyFile) as invalid:
        read_key_file(path)
    assert str(invalid.value).startswith(f"{path}: ")
    assert "\n" not in str(invalid.value)


@given(DOCUMENTS)
@example(b"keys: !!bool foo")
def test_no_bytes_make_another_error_of_a_key_file(content: bytes) -> None:
    """Keys, or InvalidKeyFile."""
    with contextlib.suppress(InvalidKeyFile):
        assert parse_key_file(content, Path("keys.yaml")).keys is not None


@given(DOCUMENTS)
def test_no_bytes_make_another_error_of_a_document(content: bytes) -> None:
    """Any bytes either parse or raise InvalidDocument, even if they are not a key file or a rollout."""
    with contextlib.suppress(InvalidDocument):
        mounted_file.parse(content)


@pytest.mark.parametrize("number", "1:30 1:30.5 010 0x10 0b11 1_000 .5 5. .inf .nan 1.0e+1 00".split())
def test_a_number_is_a_plain_decimal_one(number: str) -> None:
    """YAML 1.1 makes 90 of `1:30` and 8 of `010`: it is refused, and the line is told."""
    with pytest.raises(InvalidDocument, match=r"^line 2: only a plain decimal number is taken$"):
        mounted_file.parse(f"---\na: {number}".encode())


@pytest.mark.parametrize(("written", "number"), [("0", 0), ("5", 5), ("12.50", 12.5), ("100", 100), ("-1", -1)])
def test_a_decimal_number_is_read_as_it_is_written(written: str, number: float) -> None:
    """In YAML as in JSON."""
    assert (
        mounted_file.parse(f"a: {written}".encode())
        == mounted_file.parse(f'{{"a": {written}}}'.encode())
        == {"a": number}
    )


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe without a writer, a folder, a device that never ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            mounted_file.read(path)


def test_a_file_has_a_limit(tmp_path: Path) -> None:
    """Up to it all is read; what is over it is not read at all."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * mounted_file.MAX_BYTES)
    assert len(mounted_file.read(path)) == mounted_file.MAX_BYTES
    path.write_bytes(b"x" * (mounted_file.MAX_BYTES + 1))
    with pytest.raises(OSError, match=f"over {mounted_file.MAX_BYTES} bytes"):
        mounted_file.read(path)


def test_an_error_shows_nothing_of_the_file() -> None:
    """A key may have got into it by mistake, wherever it stands; and many errors are still one short line."""
    for content in (
        "keys: psk_secret",
        "keys: !psk_secret a",
        "keys: *psk_secret",
        "psk_secret: {",
        "- &a psk_secret\n- *a",
    ):
        with pytest.raises(InvalidKeyFile) as invalid:
            parse_key_file(content.encode(), Path("keys.yaml"))
        assert "psk_secret" not in str(invalid.value)
    with pytest.raises(InvalidKeyFile, match=r"and 997 more$"):
        parse_key_file(b"keys:\n" + b"- a\n" * 1000, Path("keys.yaml"))
