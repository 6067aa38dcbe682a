"""LM settings as values: equal ones are one LM, and none shows its key."""

from pools.calls import Call, Program
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.lm import LMSettings, lm_budget_s
from poolshift.worker.messages import Run


def test_no_repr_shows_a_key() -> None:
    """Neither the settings nor any object that carries them shows the key."""
    settings = LMSettings("openai/x", "http://127.0.0.1/v1", "sk-secret")
    program = Program("1", "p", Definition("predict", Signature((), ())))
    call = Call("e", program, b"{}", 0.0, lm=settings)
    run = Run("e", "p", 0, call.inputs, lm=settings)  # type: ignore[arg-type]
    assert "openai/x" in repr(call)
    for shown in (repr(settings), str(settings), repr(call), repr(run), f"{settings!r:>5}"):
        assert "sk-secret" not in shown


def test_any_difference_makes_another_lm() -> None:
    """A worker keeps its LMs by their settings."""
    base = LMSettings("m", "b", "k", 0.0, 1)
    others = [
        LMSettings("n", "b", "k", 0.0, 1),
        LMSettings("m", "c", "k", 0.0, 1),
        LMSettings("m", "b", "l", 0.0, 1),
        LMSettings("m", "b", "k", 0.5, 1),
        LMSettings("m", "b", "k", 0.0, 2),
        LMSettings("m", "b", "k", 0.0, 1, decodes_schema=True),
    ]
    assert len({base, *others, LMSettings("m", "b", "k", 0.0, 1)}) == 1 + len(others)


def test_the_lm_has_less_time_than_the_call() -> None:
    """So that a slow LM is told apart from a program that hangs; never nothing, which would be for ever."""
    for left_s in (0.01, 1.0, 30.0, 3600.0):
        assert 0 < lm_budget_s(left_s) < left_s
    assert lm_budget_s(0.0) > 0
    assert lm_budget_s(-1.0) > 0
