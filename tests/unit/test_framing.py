"""Frames survive any way of being cut up, and garbage is told."""

import fcntl
import os
import signal
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolshift.worker.framing import (
    MAX_COPIED_BYTES,
    MAX_FRAME_BYTES,
    FrameDecoder,
    FrameError,
    cut_in_two,
    frame,
    frame_of_two,
    read_pairs,
    write_all,
)


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 50)))
def test_however_the_stream_is_cut_the_payloads_come_out(payloads: list[bytes], cuts: list[int]) -> None:
    """The decoder returns the payloads unchanged and in order, however the reads cut the stream."""
    stream = b"".join(frame(payload) for payload in payloads)
    decoder, received, position = FrameDecoder(), list[bytes | memoryview](), 0
    for length in [*cuts, len(stream)]:
        received += decoder.feed(stream[position : position + length])
        position += length
    assert received == payloads


@given(
    st.sampled_from([MAX_COPIED_BYTES - 4, MAX_COPIED_BYTES, 3 * MAX_COPIED_BYTES]),
    st.booleans(),
    st.binary(max_size=9),
)
def test_a_large_payload_comes_out_whole(size: int, ends: bool, next_one: bytes) -> None:
    """The last read ends with it, or has another frame behind it."""
    large = bytes(range(256)) * (size // 256 + 1)
    stream = frame(large) + (b"" if ends else frame(next_one))
    decoder, received = FrameDecoder(), list[bytes | memoryview]()
    for start in range(0, len(stream), MAX_COPIED_BYTES):
        received += decoder.feed(stream[start : start + MAX_COPIED_BYTES])
    received += decoder.feed(frame(b"last"))
    assert received == [large, *([] if ends else [next_one]), b"last"]


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_length_over_the_limit_is_garbage(length: int) -> None:
    """The decoder refuses the frame before it keeps any byte of it."""
    with pytest.raises(FrameError, match=str(length)):
        list(FrameDecoder().feed(length.to_bytes(4, "big") + b"x"))


def test_a_payload_over_the_limit_is_not_sent() -> None:
    """The sender is told."""
    with pytest.raises(FrameError):
        frame(bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(FrameError):
        frame_of_two(b"{}", bytes(MAX_FRAME_BYTES - 5))


@given(st.binary(max_size=300), st.sampled_from([0, 1, 100, MAX_COPIED_BYTES, MAX_COPIED_BYTES + 1]))
def test_two_parts_come_out_as_they_went_in(head: bytes, size: int) -> None:
    """Whatever their lengths are; a long second part is not copied."""
    (payload,) = FrameDecoder().feed(frame_of_two(head, bytes(size)))
    first, second = cut_in_two(payload)
    assert (first, bytes(second)) == (head, bytes(size))
    assert isinstance(second, memoryview) == (len(payload) > MAX_COPIED_BYTES)


@pytest.mark.parametrize("payload", [b"", b"\0\0\0", b"\0\0\0\2{", b"\xff\xff\xff\xff{}"])
def test_a_payload_that_is_shorter_than_it_says(payload: bytes) -> None:
    """Such a payload is garbage."""
    with pytest.raises(FrameError):
        cut_in_two(payload)


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40))), st.lists(st.integers(1, 50)))
def test_pairs_come_out_however_they_are_sent(pairs: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    """A worker reads both parts of each payload, whether a read has one frame, several, or a part of one."""
    stream, position = b"".join(frame_of_two(*pair) for pair in pairs), 0
    ours, workers = socket.socketpair()
    with ours, workers:
        received = list[tuple[bytes, bytes | memoryview]]()
        for length in [*cuts, len(stream)]:
            ours.sendall(stream[position : position + length])
            position += length
        ours.shutdown(socket.SHUT_WR)
        received += read_pairs(workers.fileno())
    assert received == pairs


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), min_size=1, max_size=5))
def test_each_pair_in_a_read_of_its_own(pairs: list[tuple[bytes, bytes]]) -> None:
    """As calls come: the next one is sent when the last one is read."""
    ours, workers = socket.socketpair()
    with ours, workers:
        reading = read_pairs(workers.fileno())
        for pair in pairs:
            ours.sendall(frame_of_two(*pair))
            assert next(reading) == pair


@pytest.mark.parametrize("payload", [b"", b"\0\0\0\2{", b"\xff\xff\xff\xff{}"])
def test_a_worker_refuses_a_payload_that_is_shorter_than_it_says(payload: bytes) -> None:
    """Such a payload is garbage on the worker's side, too."""
    ours, workers = socket.socketpair()
    with ours, workers:
        ours.sendall(frame(payload))
        with pytest.raises(FrameError):
            next(read_pairs(workers.fileno()))


def test_a_write_goes_on_where_a_signal_ends_it() -> None:
    """A signal that comes while a pipe is full, as an alarm of a program's, ends write(2) early (pipe(7))."""
    data = os.urandom(1 << 20)
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
    received = bytearray()
    alarms: list[int] = []

    def read() -> None:
        while chunk := os.read(reads, 4096):
            received.extend(chunk)
            if len(received) % (1 << 18) == 0:
                signal.pthread_kill(writer, signal.SIGALRM)

    writer = threading.get_ident()
    before = signal.signal(signal.SIGALRM, lambda number, _: alarms.append(number))
    reader = threading.Thread(target=read)
    try:
        reader.start()
        write_all(writes, data)
    finally:
        os.close(writes)
        reader.join()
        signal.signal(signal.SIGALRM, before)
        os.close(reads)
    assert bytes(received) == data
    assert alarms
