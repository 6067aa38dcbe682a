"""Counters add up like numbers, survive JSON, and hold all that the running products hold."""

import json
import math
from collections import defaultdict

import pytest
from hypothesis import given, settings

from analysis.counters import Counters
from analysis.evidence import Bench
from analysis.faults import cells_of_copy
from analysis.formulas.odds import WORSE_PRIORS, WORSE_RATIOS, log_factors, worse_than
from analysis.guardrails import GUARDRAILS, Config
from analysis.judge import Judge
from tests.unit.analysis.calls import STEPS, Told, calls, counters_of, random_calls, tell, told_all


@given(calls, calls, calls)
@settings(max_examples=40)
def test_merge_is_associative_and_commutative(one: list[Told], two: list[Told], three: list[Told]) -> None:
    a, b, c = counters_of(one), counters_of(two), counters_of(three)
    assert a.merge(b).to_data() == b.merge(a).to_data()
    assert a.merge(b).merge(c).to_data() == a.merge(b.merge(c)).to_data()
    assert a.merge(Counters()).to_data() == a.to_data()


@given(calls)
@settings(max_examples=40)
def test_counters_survive_json(told: list[Told]) -> None:
    counters = counters_of(told)
    again = Counters.from_data(json.loads(json.dumps(counters.to_data())))
    assert again.to_data() == counters.to_data()


def test_a_checkpoint_of_an_older_replica_loads() -> None:
    """A checkpoint without ranks and times by program: the judge goes on with all else."""
    judge = told_all(list(random_calls(9, 3000)))
    data = json.loads(json.dumps(judge.counters.to_data()))
    assert data["ranks"]
    assert data["times"]
    old = {name: part for name, part in data.items() if name not in ("ranks", "times")}
    again = Judge(judge.config, Counters.from_data(old))
    for one in random_calls(10, 3000):
        tell(again, one._replace(w=0.5))
    assert again.malformed == 0
    assert {row.name: row.log_e for row in again.analysis()}.keys() == {one.name for one in GUARDRAILS}


@pytest.mark.parametrize("data", [{}, {"steps": 3}, {"steps": [[1]]}])
def test_other_data_are_no_counters(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no counters|unpack"):
        Counters.from_data(data)


def test_evidence_is_the_same_after_json_and_after_a_merge_with_nothing() -> None:
    judge = told_all(list(random_calls(1, 3000)))
    bench = Bench(judge.config, judge.counters)
    again = Bench(judge.config, Counters.from_data(json.loads(json.dumps(judge.counters.merge(Counters()).to_data()))))
    for guardrail in GUARDRAILS[:7]:
        assert again.look(guardrail).log_e == pytest.approx(bench.look(guardrail).log_e)


def test_evidence_that_is_kept_up_to_date_is_that_of_the_counters() -> None:
    """The live judge updates its strata and segments call by call; a fresh look at the counters says the same."""
    judge = Judge(Config(programs=5))
    for number, one in enumerate(random_calls(2, 4000)):
        tell(judge, one)
        if number % 500 == 0:
            judge.look(one.t)
    live = {row.name: row.log_e for row in judge.analysis()}
    fresh = {one.name: Bench(judge.config, judge.counters).look(one).log_e for one in GUARDRAILS[:7]}
    for name, log_e in fresh.items():
        assert live[name] == pytest.approx(log_e, abs=1e-9), name


@given(calls)
@settings(max_examples=60)
def test_the_first_copy_counts_each_key_once_as_running_products_do(told: list[Told]) -> None:
    """The counter form of engine faults against factors multiplied call by call, with keys and incidents."""
    config = Config(steps=STEPS)
    products: dict[float, float] = defaultdict(lambda: 1.0)
    seen: set[int] = set()
    for index, one in enumerate(told):
        if one.outcome not in ("worker_crashed", "execution_timeout") or one.key in seen:
            continue
        if one.key is not None:
            seen.add(one.key)
        for ratio in WORSE_RATIOS:
            products[ratio] *= math.exp(log_factors(one.w, ratio)[1 if one.arm == "v2" else 0])
        told[index] = one
    # Seconds apart, so that no two faults are one incident.
    spread = [one._replace(t=float(number)) for number, one in enumerate(told)]
    judge = told_all(spread, config)
    mixture = sum(prior * products[ratio] for prior, ratio in zip(WORSE_PRIORS, WORSE_RATIOS, strict=True))
    evidence = Bench(config, judge.counters).faults["engine"]
    log_e = evidence.log_e(1)[0][0]
    cells = cells_of_copy(evidence.pooled, 0, judge.counters.steps)
    assert worse_than(1.0).log_e(cells) == pytest.approx(math.log(mixture), abs=1e-6)
    assert math.exp(log_e) >= GUARDRAILS[0].pooled * mixture * (1 - 1e-6)


def test_replicas_together_find_what_one_alone_finds() -> None:
    """Calls of two replicas, merged, give the counts of one that saw them all (keys apart)."""
    told = [one._replace(key=None, outcome="ok") for one in random_calls(3, 2000)]
    whole = counters_of(told)
    merged = counters_of(told[::2]).merge(counters_of(told[1::2]))
    assert merged.units == whole.units
    assert merged.calls == whole.calls


def test_a_replica_adds_no_faults_twice() -> None:
    judge = told_all(list(random_calls(4, 2000)))
    assert {key[0] for key in judge.counters.without_events().events} <= {"tail"}
    assert judge.counters.without_events().units == judge.counters.units
