"""Helm's output, played by podman: no cluster, but the rendered Deployment and the pod of `helm test`, running."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from config.api_keys import hash_key, new_key
from tests.ship.containers import podman
from tests.ship.tools import BIN, Chart, Resource, containers, of_kind, only
from tests.support.service import free_port, says_ready
from tests.support.waiting import wait_until

pytestmark = pytest.mark.ship

KEY = new_key()
TEST_KEY = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "test-key"},
    "stringData": {"api-key": KEY},
}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def resources(package: Path, image: str, port: int) -> list[Resource]:
    """Rendered with keys, a rollout file and SQLite on a claim; with an address of its own on the host's network."""
    repository, _, tag = image.rpartition(":")
    auth = {"keys": [{"name": "operator", "hash": hash_key(KEY), "scopes": ["admin"]}]}
    rendered = Chart(package, BIN / "helm4").render(
        "--set-string",
        f"image.repository={repository},image.tag={tag}",
        "--set",
        "image.pullPolicy=Never,pools.v1.size=1,pools.v2.size=1,"
        "canary.percent=null,canary.file.enabled=true,canary.file.percent=42.5,persistence.enabled=true,"
        "tests.existingSecret=test-key",
        "--set-json",
        f"auth={json.dumps(auth)}",
    )
    own = {"HOST": "127.0.0.1", "PORT": str(port), "POOLSHIFT_URL": f"http://127.0.0.1:{port}"}
    specs = [only(rendered, "Deployment")["spec"]["template"]["spec"], only(rendered, "Pod")["spec"]]
    for entry in (entry for spec in specs for each in containers(spec) for entry in each["env"]):
        if entry["name"] in own:
            entry["value"] = own[entry["name"]]
    # Kubernetes gives a volume to the pod's fsGroup; podman has an annotation for that.
    owner = {"volume.podman.io/uid": "10001", "volume.podman.io/gid": "10001"}
    only(rendered, "PersistentVolumeClaim")["metadata"]["annotations"] = owner
    return rendered


def _play(file: Path, resources: list[Resource]) -> None:
    file.write_text(yaml.safe_dump_all(resources))
    podman("kube", "play", "--network", "host", file)


@pytest.fixture(scope="module")
def service(resources: list[Resource], port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The Deployment with what it mounts, ready."""
    file = tmp_path_factory.mktemp("play") / "deployment.yaml"
    kinds = ("Secret", "ConfigMap", "PersistentVolumeClaim", "Deployment")
    try:
        _play(file, [each for kind in kinds for each in of_kind(resources, kind)])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": KEY}, timeout=30) as client:
            wait_until(lambda: says_ready(client), "the pod is ready")
            yield client
    finally:
        podman("kube", "down", "--force", file, check=False)


def test_the_rendered_pod_answers(service: httpx.Client) -> None:
    """The init container ended well (else nothing is played), the key arrived, nobody without one gets in."""
    assert service.get("/programs").status_code == 200
    assert httpx.get(f"{service.base_url}/rollout").status_code == 401


def test_the_rollout_file_moves_traffic(service: httpx.Client) -> None:
    """The percentage of the ConfigMap is in force, and the history says where it came from."""
    rollout = service.get("/rollout").json()
    assert (rollout["canary_percent"], rollout["source"]) == (42.5, "file")


def test_helm_test_passes(service: httpx.Client, resources: list[Resource], tmp_path: Path) -> None:
    """The pod of `helm test` runs a program through the service with the key that it is given, and ends well."""
    file = tmp_path / "test.yaml"
    try:
        _play(file, [TEST_KEY, only(resources, "Pod")])
        name = "release-poolshift-test-test"
        assert podman("wait", name).stdout.strip() == "0", podman("logs", name).stderr
        assert '"keywords":["pool","worker"]' in podman("logs", name).stdout
    finally:
        podman("kube", "down", "--force", file, check=False)


def test_the_pod_ends_in_order(service: httpx.Client) -> None:
    """Stopped, it drains and ends with 0. (The last test of the module: it ends what the others use.)"""
    name = "release-poolshift-pod-poolshift"
    podman("stop", "--time", "30", name)
    assert json.loads(podman("inspect", name).stdout)[0]["State"]["ExitCode"] == 0
