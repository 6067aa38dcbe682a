"""The memory that replicas share, seen from several processes."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.replicas.page import MAX_NEWS_BYTES, Page, Row, State


def in_a_fork(work: object) -> int:
    """Runs `work()` in a fork of this process, and returns its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_a_fork_writes_is_seen_here() -> None:
    """Words, stamps and news."""
    page = Page(2)
    before = bytes(page.stamps)

    def write() -> None:
        page.set(Row.STATE, 1, State.SERVING)
        page.set(Row.KEYS, 1, 7)
        page.put_news(1, b"news")

    assert in_a_fork(write) == 0
    assert page.row(Row.STATE) == [State.GONE, State.SERVING]
    assert (page.get(Row.KEYS, 1), page.news(1)) == (7, b"news")
    assert page.stamps != before


def test_a_state_is_no_stamp() -> None:
    """Whoever starts, stops or takes a connection sends nobody to the database."""
    page = Page(3)
    before = bytes(page.stamps)
    for row in (Row.PID, Row.STATE, Row.BEAT, Row.CONNECTIONS):
        page.set(row, 2, 1)
    assert page.stamps == before


@given(replica=st.integers(0, 2), row=st.sampled_from([Row.ROLLOUT, Row.CHANGES, Row.KEYS]))
def test_a_stamp_is_in_its_place(replica: int, row: Row) -> None:
    """The bytes of `place_among_stamps` are the word, and no other word's."""
    page = Page(3)
    before = bytes(page.stamps)
    page.set(row, replica, -1)
    place = page.place_among_stamps(row, replica)
    after = bytes(page.stamps)
    assert after[place] == b"\xff" * 8
    assert after[: place.start] + after[place.stop :] == before[: place.start] + before[place.stop :]


@given(st.lists(st.binary(max_size=64), min_size=1, max_size=5))
def test_the_newest_news_are_read(news: list[bytes]) -> None:
    """However many came before, and each replica's are its own."""
    page = Page(2)
    for one in news:
        page.put_news(0, one)
    assert page.news(0) == news[-1]
    assert page.get(Row.ROLLOUT, 0) == len(news)
    assert page.get(Row.ROLLOUT, 1) == 0


def test_news_have_a_bound() -> None:
    """As much as the bound is taken, a byte more is not, and what was there stays."""
    page = Page(1)
    longest = b"x" * MAX_NEWS_BYTES
    page.put_news(0, longest)
    with pytest.raises(ValueError, match="news"):
        page.put_news(0, longest + b"x")
    assert page.news(0) == longest


def test_no_half_of_news_is_read() -> None:
    """While another process writes without a pause, each that is read is one that was written."""
    page = Page(1)
    page.put_news(0, b"a" * 4000)

    def write() -> None:
        for number in range(20_000):
            page.put_news(0, (b"a", b"b", b"c")[number % 3] * 4000)

    pid = os.fork()
    if pid == 0:
        write()
        os._exit(0)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        news = page.news(0)
        assert news == news[:1] * 4000
