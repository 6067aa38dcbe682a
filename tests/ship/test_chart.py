"""The released chart: valid everywhere, safe, true to the settings, and a refusal where values make no sense."""

import json
import math
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from config.api_keys import read_key_file
from config.settings import Settings
from dashboards.build import generate
from routing.rollout.plan import Plan, parse_plan
from tests.ship.conftest import DASHBOARDS
from tests.ship.tools import BIN, Chart, Resource, assert_valid, containers, of_kind, only, pod_specs, run
from tests.support.service import ROOT

pytestmark = pytest.mark.ship

ANONYMOUS = ("--set", "auth.allowAnonymous=true")


def _environment(resources: list[Resource]) -> dict[str, str]:
    """Returns the environment of the service's container, secrets by the chart's own Secret."""
    secrets = of_kind(resources, "Secret")
    data = secrets[0]["stringData"] if secrets else {}
    (container,) = only(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {
        entry["name"]: entry.get("value") or data.get(entry.get("valueFrom", {}).get("secretKeyRef", {}).get("key"), "")
        for entry in container["env"]
    }


def test_lints(either_chart: Chart, values: Path) -> None:
    """Helm has nothing to say against it, warnings neither."""
    run(either_chart.helm, "lint", "--strict", either_chart.path, "-f", values)


def test_every_manifest_is_valid(chart: Chart, values: Path, tmp_path: Path) -> None:
    """The oldest and the newest Kubernetes take every resource, and know every field of it."""
    assert_valid(chart.render("-f", values), tmp_path)


def test_an_invalid_manifest_is_seen(chart: Chart, tmp_path: Path) -> None:
    """The test above can fail, for Kubernetes' kinds and for the others."""
    resources = chart.render("-f", ROOT / "helm/values-prod.yaml")
    only(resources, "Deployment")["spec"]["replica"] = 1
    with pytest.raises(AssertionError, match="replica"):
        assert_valid(resources, tmp_path)
    monitor = only(chart.render("-f", ROOT / "helm/values-prod.yaml"), "ServiceMonitor")
    del monitor["spec"]["selector"]
    with pytest.raises(AssertionError, match="selector"):
        assert_valid([monitor], tmp_path)


def test_both_helms_render_the_same(package: Path, values: Path) -> None:
    """Whichever Helm an operator has, the cluster gets the same."""
    assert Chart(package, BIN / "helm3").render("-f", values) == Chart(package, BIN / "helm4").render("-f", values)


def test_every_pod_is_restricted(chart: Chart, values: Path) -> None:
    """Kubernetes' strictest pod security standard, a read-only file system and no token of the cluster."""
    specs = pod_specs(chart.render("-f", values))
    assert len(specs) == 2
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_trivy_finds_nothing(chart: Chart, tmp_path: Path) -> None:
    """No misconfiguration that trivy knows but those that .trivyignore gives a reason for; and it would find one."""
    ignored = ROOT / "tests/ship/trivyignore"
    scan = (BIN / "trivy", "config", "--quiet", "--skip-check-update", "--exit-code", "1", "--ignorefile", ignored)
    manifest = tmp_path / "production.yaml"
    manifest.write_text(yaml.safe_dump_all(chart.render("-f", ROOT / "helm/values-prod.yaml")))
    run(*scan, tmp_path)
    manifest.write_text(yaml.safe_dump_all(chart.render(*ANONYMOUS, "--set", "securityContext.privileged=true")))
    assert "KSV-0017" in run(*scan, tmp_path, check=False).stdout


def test_the_settings_take_what_the_chart_gives(chart: Chart, values: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value reaches the service as the setting that was meant, numbers without an exponent."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    resources = chart.render("-f", values)
    for name, value in _environment(resources).items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    said = yaml.safe_load(values.read_text())
    assert not settings.is_on_loopback
    assert settings.allow_anonymous == said["auth"].get("allowAnonymous", False)
    for name, value in said.get("config", {}).items():
        if value is not None:
            assert getattr(settings, name.lower()) == value
    percent = said.get("canary", {}).get("percent", 0)
    assert settings.canary_percent == (None if percent is None else Decimal(str(percent)))


def test_the_service_reads_the_plan_that_the_chart_writes(chart: Chart) -> None:
    """A value of each kind comes out as the plan that was meant, beside the rollout file in the same folder."""
    values = ROOT / "helm/ci/every-option-values.yaml"
    resources = chart.render("-f", values)
    (data,) = (one["data"] for one in of_kind(resources, "ConfigMap") if "plan.yaml" in one["data"])
    said = yaml.safe_load(values.read_text())["canary"]["plan"]
    assert parse_plan(data["plan.yaml"].encode()) == Plan.model_validate(said)
    assert _environment(resources)["ROLLOUT_PLAN_FILE"] == "/etc/poolshift/rollout/plan.yaml"
    assert "rollout.yaml" in data


def test_the_service_reads_the_keys_that_the_chart_writes(chart: Chart, tmp_path: Path) -> None:
    """Entries of `poolshift keys create` come out as the file that it makes."""
    values = ROOT / "helm/ci/several-replicas-values.yaml"
    file = tmp_path / "api-keys.yaml"
    file.write_text(only(chart.render("-f", values), "Secret")["stringData"]["api-keys.yaml"])
    said = yaml.safe_load(values.read_text())["auth"]["keys"]
    found = [key.model_dump(mode="json", exclude_none=True) for key in read_key_file(file).keys]
    assert found == said


def test_no_secret_is_outside_of_the_secret(chart: Chart) -> None:
    """Passwords and keys are in no manifest that more people may read."""
    for name, secret in (("several-replicas", "secret@db"), ("every-option", "lm-secret")):
        resources = chart.render("-f", ROOT / f"helm/ci/{name}-values.yaml")
        assert secret in json.dumps(of_kind(resources, "Secret"))
        assert secret not in json.dumps([each for each in resources if each["kind"] != "Secret"])


def test_the_probes_mean_different_things(chart: Chart) -> None:
    """Started is: could serve once. Ready is: can serve. Alive is: the process answers."""
    (container,) = only(chart.render(*ANONYMOUS), "Deployment")["spec"]["template"]["spec"]["containers"]
    paths = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")]
    assert paths == ["/readyz", "/readyz", "/healthz"]
    patience = [
        container[f"{probe}Probe"]["periodSeconds"] * container[f"{probe}Probe"]["failureThreshold"]
        for probe in ("readiness", "liveness", "startup")
    ]
    assert patience == sorted(set(patience))


@pytest.mark.parametrize("drain", ["1", "30", "90.5", "600"])
def test_the_grace_period_covers_the_drain(chart: Chart, drain: str) -> None:
    """Kubernetes kills no pod that still does what it accepted."""
    resources = chart.render(*ANONYMOUS, "--set", f"config.DRAIN_TIMEOUT_S={drain},preStopSleepSeconds=7")
    spec = only(resources, "Deployment")["spec"]["template"]["spec"]
    assert spec["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert spec["terminationGracePeriodSeconds"] == 7 + math.ceil(float(drain)) + 10
    assert _environment(resources)["DRAIN_TIMEOUT_S"] == drain


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ("replicaCount=1", 1),
        ("resources.limits.cpu=3999m", 1),
        ("resources.limits.cpu=4", 2),
        ("resources.limits.cpu=4500m", 2),
        ("resources.limits.cpu=7.5", 3),
        ("resources.limits.cpu=1e1", 1),  # no quantity that anyone writes
        ("resources.requests.cpu=8", 4),
        ("resources.requests.cpu=8,resources.limits.cpu=4", 2),
        ("resources.limits=null,resources.requests=null", 1),
        ("resources.limits.cpu=16", 4),  # as many as each pool has workers
        ("resources.limits.cpu=16,pools.v2.size=32", 4),
        ("resources.limits.cpu=16,pools.v1.size=3,pools.v2.size=32", 3),
        ("resources.limits.cpu=16,pools.v1.size=32,pools.v2.size=3", 3),
        ("resources.limits.cpu=16,pools.v1.size=32,pools.v2.size=32", 8),
        ("resources.limits.cpu=192,pools.v1.size=1024,pools.v2.size=1024", 64),
        (r"config.POOLS=v2,resources.limits.cpu=16,pools.v1.size=1,pools.v2.size=32", 8),
        (r"config.POOLS=v1\,v2,resources.limits.cpu=16,pools.v1.size=1,pools.v2.size=32", 1),
        ("canary.percent=50,resources.limits.cpu=8", 4),
        ("canary.percent=100,resources.limits.cpu=8", 4),
        ("canary.percent=null,resources.limits.cpu=8", 4),
        ("config.POOL_VERSION=v1,resources.limits.cpu=8", 4),
        ("config.V2_WORKERS=ray,ray.address=head:6379,resources.limits.cpu=8", 4),
        ("config.WEB_CONCURRENCY=1,resources.limits.cpu=8", 1),
        ("config.WEB_CONCURRENCY=6", 6),
    ],
)
def test_processes_follow_the_cores(either_chart: Chart, values: str, count: int) -> None:
    """One for each two whole cores, in every phase, if each pool has a worker for each; an operator's number wins."""
    resources = either_chart.render(*ANONYMOUS, "--set", values)
    assert _environment(resources).get("WEB_CONCURRENCY", "1") == str(count)


def test_moving_traffic_by_the_file_restarts_nothing(chart: Chart) -> None:
    """The ConfigMap changes and the pods do not; the percentage at the start is a change of the pods."""
    file = (*ANONYMOUS, "--set", "canary.file.enabled=true,resources.limits.cpu=8")
    before = chart.render(*file)
    after = chart.render(*file, "--set", "canary.file.percent=12.34,canary.file.reason=why: 'it' is \"said\"")
    rollout = yaml.safe_load(only(after, "ConfigMap")["data"]["rollout.yaml"])
    assert rollout == {"canary_percent": 12.34, "reason": "why: 'it' is \"said\""}
    shadowing = chart.render(*file, "--set", "canary.file.shadowPercent=0")
    assert yaml.safe_load(only(shadowing, "ConfigMap")["data"]["rollout.yaml"])["shadow_percent"] == 0
    everything = chart.render(*file, "--set", "canary.file.percent=100")
    assert only(before, "Deployment") == only(after, "Deployment") == only(everything, "Deployment")
    assert only(before, "Deployment") != only(chart.render(*file, "--set", "canary.percent=1"), "Deployment")


def test_a_changed_secret_restarts_the_pods(chart: Chart) -> None:
    """A new database URL is not left unread."""
    url = "database.url=postgresql+asyncpg://a@b/"
    one, other = (chart.render(*ANONYMOUS, "--set", url + name) for name in ("one", "other"))
    assert only(one, "Deployment") != only(other, "Deployment")


def test_prometheus_takes_the_rules(chart: Chart, tmp_path: Path) -> None:
    """Every file of dashboards/rules is a PrometheusRule that says the same, and Prometheus can read it."""
    rules = of_kind(chart.render("-f", ROOT / "helm/values-prod.yaml"), "PrometheusRule")
    sources = {f"release-poolshift-{path.stem}": path for path in (DASHBOARDS / "rules").glob("*.yaml")}
    assert {rule["metadata"]["name"] for rule in rules} == set(sources)
    for rule in rules:
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump(rule["spec"]))
        run("promtool", "check", "rules", file)
        assert rule["spec"] == yaml.safe_load(sources[rule["metadata"]["name"]].read_text())


def test_the_chart_has_every_dashboard(chart: Chart) -> None:
    """Grafana's sidecar gets each dashboard as the code makes it."""
    found = {
        name: json.loads(text)
        for config_map in of_kind(chart.render("-f", ROOT / "helm/values-prod.yaml"), "ConfigMap")
        if config_map["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in config_map["data"].items()
    }
    assert found == {f"{name}.json": json.loads(text) for name, text in generate().items()}
    assert found


def test_the_service_does_not_find_the_test_pod(chart: Chart) -> None:
    """`helm test` gets no calls, and reaches the service through the policy."""
    resources = chart.render("-f", ROOT / "helm/values-prod.yaml")
    selector = only(resources, "Service")["spec"]["selector"]
    labels = only(resources, "Pod")["metadata"]["labels"]
    assert not selector.items() <= labels.items()
    assert selector.items() <= only(resources, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    (rule,) = only(resources, "NetworkPolicy")["spec"]["ingress"]
    assert any(
        each.get("podSelector", {}).get("matchLabels", {"": ""}).items() <= labels.items() for each in rule["from"]
    )


def test_the_released_chart_has_the_projects_version(package: Path) -> None:
    """One version for all, and nothing in the package that only the tests need."""
    shown = yaml.safe_load(run(BIN / "helm4", "show", "chart", package).stdout)
    version = run("make", "--silent", "--eval=say: ; @echo $(VERSION)", "say", cwd=ROOT).stdout.strip()
    assert shown["version"] == shown["appVersion"] == version
    assert "/ci/" not in run("tar", "-tzf", package).stdout


def test_a_checkout_without_dashboards_says_so(package: Path, tmp_path: Path) -> None:
    """The chart of a checkout, not packaged yet, does not quietly leave out what was asked for."""
    run("tar", "-xzf", package, "-C", tmp_path)
    run("rm", "-r", tmp_path / "poolshift/files")
    chart = Chart(tmp_path / "poolshift", BIN / "helm4")
    for option in ("dashboards", "prometheusRule"):
        assert "`make chart`" in chart.refuses(*ANONYMOUS, "--set", f"metrics.{option}.enabled=true")


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        ("auth.allowAnonymous=false", "auth: say who may call"),
        ("auth.existingSecret=keys", "contradict each other"),
        ("replicaCount=2", "2 replicas need PostgreSQL"),
        ("autoscaling.enabled=true", "6 replicas need PostgreSQL"),
        ("database.existingSecret=db,autoscaling.enabled=true,autoscaling.maxReplicas=1", "minReplicas is above"),
        ("database.existingSecret=db,persistence.enabled=true", "persistence.enabled is for SQLite"),
        ("database.url=mysql://db", "database"),
        ("canary.percent=101", "percent"),
        ("canary.percent=-1", "percent"),
        ("canary.percent=0.005", "percent"),
        ("canary.percent=half", "percent"),
        ("canary.file.percent=100.01", "percent"),
        ("canary.precent=1", "precent"),
        ("pools.v1.size=0", "size"),
        ("pools.v3.size=1", "v3"),
        ("config.DRAIN_TIMEOUT_S=0", "DRAIN_TIMEOUT_S"),
        ("config.DRAIN_TIMEOUT=1", "DRAIN_TIMEOUT"),
        ("config.PORT=1", "PORT"),
        ("config.POOL_VERSION=v3", "POOL_VERSION"),
        ("ingress.enabled=true", "hosts"),
        ("httpRoute.enabled=true", "parentRefs"),
        ("httpRoute.enabled=true,httpRoute.parentRefs[0].namespace=gateways", "name"),
        ("metrics.serviceMonitor.scrapeTimeout=20s", "scrapeTimeout is above interval"),
        ("metrics.serviceMonitor.interval=500ms,metrics.serviceMonitor.scrapeTimeout=1s", "is above interval"),
        ("extraEnv[0].name=PORT,extraEnv[0].value=x", "extraEnv: PORT has a value of its own"),
        ("extraEnv[0].name=DRAIN_TIMEOUT_S,extraEnv[0].value=x", "extraEnv: DRAIN_TIMEOUT_S has a value"),
        ("extraEnv[0].name=WEB_CONCURRENCY,extraEnv[0].value=x", "extraEnv: WEB_CONCURRENCY has a value"),
        ("config.WEB_CONCURRENCY=0", "WEB_CONCURRENCY"),
        ("config.WEB_CONCURRENCY=65", "WEB_CONCURRENCY"),
        ("canary.file.enabled=true,canary.file.percent=null", "percent"),
        ("config.OTEL_TRACES_SAMPLER=sometimes", "OTEL_TRACES_SAMPLER"),
        ("image.repository=Poolshift", "repository"),
        ("auth.keys[0].name=a", "hash"),
        ("image.digest=latest", "digest"),
        ("preStopSleepSeconds=0", "preStopSleepSeconds"),
        ("config.V2_WORKERS=ray", "ray: workers on a Ray cluster need the address"),
        ("ray.address=http://head:6379/", "address"),
        ("extraEnv[0].name=FLAGD_PORT,extraEnv[0].value=8013", "value"),
        ("ray.env[0].name=RAY_USE_TLS,ray.env[0].value=1", "value"),
        ("ray.address=head:6379,networkPolicy.enabled=true", "ray.peers"),
    ],
)
def test_nonsense_is_refused(either_chart: Chart, nonsense: str, reason: str) -> None:
    """A wrong value does not get as far as the cluster, and the message names it."""
    assert reason in either_chart.refuses(*ANONYMOUS, "--set", nonsense)


@pytest.mark.parametrize("percent", ["0", "0.01", "0.07", "33.33", "99.99", "100"])
def test_a_percentage_can_be_set_in_every_way(either_chart: Chart, percent: str) -> None:
    """On the command line, where Helm takes a fraction for a string, and as the number that a file has."""
    for option in ("--set", "--set-json"):
        resources = either_chart.render(*ANONYMOUS, option, f"canary.percent={percent}")
        assert _environment(resources)["CANARY_PERCENT"] == percent
