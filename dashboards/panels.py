"""The house style of the panels, on Grafana's Foundation SDK."""

from collections.abc import Iterable, Sequence

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_COLORS = {"v1": "#5794F2", "v2": "#FF9830"}

WITHOUT_V1 = "V1 does not run"
"""The text of an empty panel that has a query for V1 alone: with POOLS=v2 there is no series of V1."""
Query = tuple[str, str]
"""PromQL and its legend."""


def row(title: str) -> dashboard.Row:
    """A heading."""
    return dashboard.Row(title)


def lines(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    width: int = 8,
    maximum: float | None = None,
    minimum: float | None = 0,
    stacked: bool = False,
    stepped: bool = False,
    exemplars: bool = False,
) -> timeseries.Panel:
    """Lines over time: V1 in blue, V2 in orange wherever a series is one of them alone."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for version, color in _COLORS.items():
        panel.override_by_regexp(
            f"/^{version}( p99)?$/",
            [DynamicConfigValue("color", {"mode": FieldColorModeId.FIXED, "fixedColor": color})],
        )
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if stepped:
        panel.line_interpolation(LineInterpolation.STEP_AFTER)
    if _needs_v1(query for query, _ in queries):
        panel.no_value(WITHOUT_V1)
    for target in _targets(queries, exemplars=exemplars):
        panel.with_target(target)
    return panel


def interval_lines(
    title: str, description: str, middle: Query, low: Query, high: Query, *, unit: str, width: int = 12
) -> timeseries.Panel:
    """A line within its interval, which is shaded; zero is always in sight."""
    panel = lines(title, description, [middle, high, low], unit=unit, width=width, minimum=None)
    panel.axis_soft_min(0).axis_soft_max(0)
    faint = DynamicConfigValue("custom.lineWidth", 0)
    panel.override_by_name(
        high[1], [faint, DynamicConfigValue("custom.fillBelowTo", low[1]), DynamicConfigValue("custom.fillOpacity", 20)]
    )
    panel.override_by_name(low[1], [faint, DynamicConfigValue("custom.fillOpacity", 0)])
    return panel


def number(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    width: int = 4,
    decimals: int | None = None,
    warn_at: float | None = None,
    alarm_at: float | None = None,
    sparkline: bool = True,
) -> stat.Panel:
    """The last value, large; yellow from `warn_at`, red from `alarm_at`."""
    steps = [Threshold(value=None, color="green" if alarm_at is not None else "text")]
    steps += [Threshold(value=warn_at, color="yellow")] if warn_at is not None else []
    steps += [Threshold(value=alarm_at, color="red")] if alarm_at is not None else []
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .no_value(WITHOUT_V1 if _needs_v1(query for query, _ in queries) else "none")
        .graph_mode(BigValueGraphMode.AREA if sparkline else BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    )
    if decimals is not None:
        panel.decimals(decimals)
    for target in _targets(queries):
        panel.with_target(target)
    return panel


def _needs_v1(queries: Iterable[str]) -> bool:
    return any('pool_version="v1"' in query for query in queries)


def density(title: str, description: str, buckets: str, *, width: int = 12) -> heatmap.Panel:
    """A histogram over time; `buckets` is PromQL by `le`."""
    target = _target("A", (buckets, "{{le}}"), exemplars=True).format(PromQueryFormat.HEATMAP)
    panel = (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .span(width)
        .height(8)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .with_target(target)
    )
    return panel.no_value(WITHOUT_V1) if _needs_v1([buckets]) else panel


def _targets(queries: Sequence[Query], *, exemplars: bool = False) -> list[prometheus.Dataquery]:
    return [_target(chr(ord("A") + position), query, exemplars=exemplars) for position, query in enumerate(queries)]


def _target(letter: str, query: Query, *, exemplars: bool) -> prometheus.Dataquery:
    expression, legend = query
    target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(legend).range()
    return target.exemplar(exemplars)
