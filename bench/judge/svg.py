"""A small line chart as SVG, without a library: the developers' environment has none for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 50
_TICKS = 5

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line; without a label it has no entry in the legend."""

    label: str
    points: Points
    colour: str


@dataclass(frozen=True)
class Chart:
    """A title, two axes, lines, and a dashed line across."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    across: float | None
    y_range: tuple[float, float]
    across_label: str = "threshold"

    def svg(self) -> str:
        """The picture."""
        body = [*self._axes(), *(self._line(line) for line in self.lines), *self._legend(), *self._across()]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
            f'font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
            f'<text x="{_LEFT}" y="22" font-size="15">{escape(self.title)}</text>\n' + "\n".join(body) + "</svg>\n"
        )

    @property
    def _x_max(self) -> float:
        return max(x for line in self.lines for x, _ in line.points)

    def _x(self, x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / self._x_max

    def _y(self, y: float) -> float:
        low, high = self.y_range
        share = (min(max(y, low), high) - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    def _axes(self) -> list[str]:
        low, high = self.y_range
        parts = [
            f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(self.x_label)}</text>',
            f'<text x="16" y="{_HEIGHT / 2}" transform="rotate(-90 16 {_HEIGHT / 2})" text-anchor="middle">'
            f"{escape(self.y_label)}</text>",
        ]
        for tick in range(_TICKS + 1):
            x, y = self._x_max * tick / _TICKS, low + (high - low) * tick / _TICKS
            below = _HEIGHT - _BOTTOM + 18
            parts.append(f'<text x="{self._x(x):.0f}" y="{below}" text-anchor="middle">{x:,.0f}</text>')
            parts.append(f'<text x="{_LEFT - 6}" y="{self._y(y) + 4:.0f}" text-anchor="end">{y:.3g}</text>')
            parts.append(f'<path d="M{_LEFT} {self._y(y):.1f}H{_WIDTH - _RIGHT}" stroke="#e5e7eb" fill="none"/>')
        return parts

    def _line(self, line: Line) -> str:
        path = "L".join(f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in line.points)
        return f'<path d="M{path}" fill="none" stroke="{line.colour}" stroke-width="1.5"/>'

    def _legend(self) -> list[str]:
        labelled = [line for line in self.lines if line.label]
        return [
            f'<text x="{_LEFT + 10}" y="{_TOP + 14 + 16 * place}" fill="{line.colour}">{escape(line.label)}</text>'
            for place, line in enumerate(labelled)
        ]

    def _across(self) -> list[str]:
        if self.across is None:
            return []
        y = self._y(self.across)
        return [
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#111" stroke-dasharray="6 4" fill="none"/>',
            f'<text x="{_WIDTH - _RIGHT}" y="{y - 6:.1f}" text-anchor="end">{escape(self.across_label)}</text>',
        ]
