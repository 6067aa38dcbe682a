"""The frame of all dashboards: data source, job and instance to choose, the rollout's changes, links to the others.

The dashboards are of the classic schema, which file provisioning and the sidecar of Grafana's Helm chart load into any
Grafana since 10; the newer one, which the SDK recommends in a warning, needs Grafana 13.
"""

import json

from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from dashboards.panels import SOURCE
from dashboards.queries import SCOPE

TAG = "poolshift"


def new_dashboard(name: str, title: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard that has what all have: the data source, job and instance to choose, links to the others."""
    return (
        dashboard.Dashboard(title)
        .uid(f"poolshift-{name}")
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Poolshift")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_label_variable("job", "poolshift_rollout_revision"))
        .with_variable(_label_variable("instance", 'poolshift_rollout_revision{job=~"$job"}'))
        .annotation(_rollout_changes())
    )


def window_variable() -> dashboard.CustomVariable:
    """Over how long the versions are compared: longer is surer, shorter is sooner."""
    return (
        dashboard.CustomVariable("window")
        .label("Compare over")
        .values("5m,15m,30m,1h,6h,1d")
        .current(VariableOption(text="15m", value="15m", selected=True))
    )


def to_json(builder: dashboard.Dashboard) -> str:
    """Renders a dashboard as it is checked in: sorted, so that a difference shows the change."""
    built = builder.build()
    for number, panel in enumerate(built.panels or [], start=1):
        panel.id_val = number  # a link to a panel goes by it
    for variable in built.templating.list_val or []:
        # Meant for variables of the kind «interval» alone, and the SDK gives them to all.
        variable.auto = variable.auto_count = variable.auto_min = None
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _label_variable(label: str, metric: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query({"query": f"label_values({metric}, {label})", "refId": label})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(VariableOption(text="All", value="$__all", selected=True))
    )


def _rollout_changes() -> dashboard.AnnotationQuery:
    """A mark where the newest revision is another than a step before, with the percentage that it brought."""
    revision = f"poolshift_rollout_revision{{{SCOPE}}}"
    newest = f"max by (job) ({revision})"
    before = f"max by (job) ({revision} offset $__interval)"
    # A replica that has not heard yet still shows the percentage before: only those with the newest revision count.
    percent = (
        f"max by (job) (poolshift_canary_percent{{{SCOPE}}} and on (job, instance, replica)"
        f" ({revision} == on (job) group_left () {newest}))"
    )
    return (
        dashboard.AnnotationQuery()
        .name("Rollout")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("purple")
        .target(
            prometheus.Dataquery()
            .ref_id("Rollout")
            .datasource(SOURCE)
            .interval("15s")
            .expr(
                f'(count_values by (job) ("revision", {newest}) unless count_values by (job) ("revision", {before}))'
                f' * on (job) group_left (percent) count_values by (job) ("percent", {percent})'
            )
        )
        .title_format("Rollout revision {{revision}}")
        .text_format("V2 at {{percent}} %")
        .tag_keys("job")
    )
