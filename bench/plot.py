"""Draws the contenders of each scenario as bars, in one picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.contenders import PEERS
from bench.machine import Machine
from bench.outcome import Outcome, p99, throughput

_OURS, _PEER = "#2a6f97", "#b0b7bf"


def plot(machine: Machine, outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes an SVG, the same for the same figures."""
    shown = [outcome for outcome in outcomes if outcome.loads]
    if not shown:
        return
    heights = [1.2 + 0.35 * len(outcome.loads) for outcome in shown]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    peers = {peer.name for peer in PEERS}
    for axis, outcome in zip(axes, shown, strict=True):
        names = list(outcome.loads)
        figure_of, unit = (
            (p99, "p99, ms (shorter is better)") if outcome.is_at_a_rate else (throughput, "calls per second")
        )
        rounds = [[figure_of(load) for load in outcome.loads[name]] for name in names]
        values = [statistics.median(one) for one in rounds]
        low = [value - min(one) for one, value in zip(rounds, values, strict=True)]
        high = [max(one) - value for one, value in zip(rounds, values, strict=True)]
        colours = [_PEER if name in peers else _OURS for name in names]
        bars = axis.barh(names, values, color=colours, xerr=[low, high], ecolor="#444444", capsize=2)
        axis.bar_label(bars, fmt="{:,.2f}" if outcome.is_at_a_rate else "{:,.0f}", padding=6, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(f"{outcome.scenario}: {outcome.conditions}", loc="left", fontsize=8, wrap=True)
        axis.set_xlabel(unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{machine.cpu}, {machine.cores} cores, {machine.began_at[:10]}", fontsize=9)
    with mpl.rc_context({"svg.hashsalt": "poolshift"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
