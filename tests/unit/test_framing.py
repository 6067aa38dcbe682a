"""Frames survive any way of being cut up, and garbage is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolshift.worker.framing import MAX_FRAME_BYTES, FrameDecoder, FrameError, frame


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 50)))
def test_however_the_stream_is_cut_the_payloads_come_out(payloads: list[bytes], cuts: list[int]) -> None:
    """The decoder returns the payloads unchanged and in order, however the reads cut the stream."""
    stream = b"".join(frame(payload) for payload in payloads)
    decoder, received, position = FrameDecoder(), list[bytes](), 0
    for length in [*cuts, len(stream)]:
        received += decoder.feed(stream[position : position + length])
        position += length
    assert received == payloads


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_length_over_the_limit_is_garbage(length: int) -> None:
    """The decoder refuses the frame before it keeps any byte of it."""
    with pytest.raises(FrameError, match=str(length)):
        list(FrameDecoder().feed(length.to_bytes(4, "big") + b"x"))


def test_a_payload_over_the_limit_is_not_sent() -> None:
    """The sender is told."""
    with pytest.raises(FrameError):
        frame(bytes(MAX_FRAME_BYTES + 1))
