"""The rule by which workers move between the service and its fronts."""

from hypothesis import assume, given
from hypothesis import strategies as st

from app.fronts.shares import MOVES_AT, SERVICE, Move, Party, next_move


def settle(needs: list[int], has: list[int]) -> tuple[list[int], int]:
    """Moves idle workers until none moves any more. Returns who has how many, and the number of moves."""
    has, moves, workers = list(has), 0, sum(has)
    while (move := next_move([Party(*one) for one in zip(needs, has, strict=True)], workers, has[SERVICE])) is not None:
        moves += 1
        assert moves <= 4 * workers * len(needs), "workers move for ever"
        carry_out(move, has)
    return has, moves


def carry_out(move: Move, has: list[int]) -> None:
    """Moves a worker from the service to a front, or back: `has` tells who has how many."""
    if move.to is not None:
        has[SERVICE] -= 1
        has[move.to] += 1
    else:
        assert move.giver is not None
        has[move.giver] -= 1
        has[SERVICE] += 1


def test_an_idle_worker_goes_to_who_needs_it() -> None:
    assert next_move([Party(0, 2), Party(1, 0), Party(0, 2)], 4, 2) == Move(to=1)
    assert next_move([Party(0, 0), Party(1, 0), Party(0, 4)], 4, 0) == Move(giver=2, is_urgent=True)
    assert next_move([Party(1, 0), Party(8, 2), Party(8, 2)], 4, 0) == Move(giver=1, is_urgent=True)


def test_nobody_gets_more_than_he_needs() -> None:
    assert next_move([Party(0, 1), Party(1, 1), Party(2, 2)], 4, 1) is None
    assert next_move([Party(0, 0), Party(0, 0), Party(0, 0)], 0, 0) is None


def test_who_needs_more_than_there_is_shares() -> None:
    """Sixteen calls each at two fronts, whose workers began at one of them, and a few of the service."""
    has, _ = settle([0, 16, 16], [0, 4, 0])
    assert has == [0, 2, 2]
    has, _ = settle([2, 16, 16], [0, 8, 0])
    assert min(has) >= 1
    assert abs(has[1] - has[2]) <= 1


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=6),
    st.tuples(st.integers(0, 40), st.integers(0, 12)),
)
def test_workers_come_to_rest_where_they_are_needed(fronts: list[tuple[int, int]], service: tuple[int, int]) -> None:
    """Whatever was before: no worker moves for ever, and everybody has one, and nearly his part."""
    parties = [service, *fronts]
    needs = [need for need, _ in parties]
    workers = sum(has for _, has in parties)
    assume(workers >= len(parties))  # fewer go round in turns, and each serves a call wherever it comes
    has, _ = settle(needs, [has for _, has in parties])
    assert sum(has) == workers
    assert all(has[one] > 0 for one in range(len(needs)) if needs[one])
    share = min(1.0, workers / max(1, sum(needs)))
    lacks = [needs[one] * share - has[one] for one in range(len(needs))]
    assert max(lacks) - min(lacks) < MOVES_AT or 1 in has


def test_whose_calls_have_waited_longer_is_next() -> None:
    """Two fronts that are due one worker and a half each: the odd one is where the waits are longer."""
    assert next_move([Party(0, 0), Party(15, 2, 0.35), Party(15, 1, 0.7)], 3, 0) == Move(giver=1)
    assert next_move([Party(0, 0), Party(15, 1, 0.7), Party(15, 2, 0.6)], 3, 0) is None
    assert next_move([Party(0, 1), Party(15, 1, 0.35), Party(15, 1, 0.7)], 3, 1) == Move(to=2)


def test_a_front_with_few_calls_has_no_worker_for_itself() -> None:
    """The last one goes to those whose calls have waited longer, and comes back when its own have."""
    assert next_move([Party(0, 0), Party(2, 1, 0.05), Party(20, 3, 0.3)], 4, 0) == Move(giver=1)
    assert next_move([Party(0, 0), Party(2, 0, 0.1), Party(20, 4, 0.3)], 4, 0) is None
    assert next_move([Party(0, 0), Party(2, 0, 0.3), Party(20, 4, 0.3)], 4, 0) == Move(giver=2, is_urgent=True)


def test_short_waits_move_no_worker() -> None:
    """At thousands of calls a second a move would cost more than the difference."""
    assert next_move([Party(0, 0), Party(15, 2, 0.001), Party(15, 1, 0.009)], 3, 0) is None


def waits_of(callers: list[int], workers: int, rounds: int = 200) -> list[float]:
    """Has so many callers at each front call again and again, and returns the mean wait at each, in rounds.

    A round is as long as a call and as the time between two looks of `Loans.keep`: then one busy worker may move.
    """
    now, has = 0.0, [workers, *(0 for _ in callers)]
    queues = [[0.0] * count for count in (0, *callers)]
    waited: list[list[float]] = [[] for _ in queues]
    for _ in range(rounds):
        moved = 0
        while True:
            parties = [
                Party(len(queue), many, now - queue[0] if queue else 0.0)
                for queue, many in zip(queues, has, strict=True)
            ]
            move = next_move(parties, workers, has[SERVICE])
            if move is None or (move.to is None and moved):
                break
            carry_out(move, has)
            moved += move.to is None
        begun = []
        for front, queue in enumerate(queues):
            for _ in range(min(has[front], len(queue))):
                waited[front].append(now - queue.pop(0))
                begun.append(front)
        now += 0.05
        for front in begun:
            queues[front].append(now)
    return [sum(waits) / len(waits) / 0.05 for waits in waited[1:]]


@given(st.lists(st.integers(2, 24), min_size=2, max_size=4), st.integers(2, 8))
def test_a_call_waits_as_long_at_one_front_as_at_another(callers: list[int], workers: int) -> None:
    """The mean waits differ by no more than a quarter and the time of two calls, however the callers are spread."""
    assume(sum(callers) >= 2 * workers >= 2 * len(callers))
    waits = waits_of(callers, workers)
    assert max(waits) <= 1.25 * min(waits) + 2, waits
