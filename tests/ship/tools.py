"""The tools that `make ship-tools` installs, and the chart as `make chart` packages it."""

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.service import ROOT

BIN = ROOT / ".cache/ship/bin"
CRDS = ROOT / ".cache/ship/crds"
KUBERNETES = ("1.30", "1.37")
"""The oldest that Chart.yaml allows, and the newest that there is a schema of."""
PATIENCE_S = 600
"""The longest that a command may take: what builds an image is the slowest."""
CUSTOM_KINDS = {"HTTPRoute", "PrometheusRule", "ServiceMonitor"}

Resource = dict[str, Any]


def run(
    *command: str | Path,
    check: bool = True,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns what it said; a failure shows that too, and so does one that goes on for ever."""
    arguments = [str(part) for part in command]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=cwd, env=env, process_group=0
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=PATIENCE_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if check and process.returncode != 0:
        raise AssertionError(f"{command[0]} ended with {process.returncode}:\n{out}\n{err}")
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@dataclass(frozen=True)
class Chart:
    """A chart, packaged or in a folder, and one Helm to render it with."""

    path: Path
    helm: Path

    def template(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Returns the output of `helm template`."""
        return run(self.helm, "template", "release", self.path, "--namespace", "ns", *arguments, check=check)

    def render(self, *arguments: str | Path) -> list[Resource]:
        """The resources that it renders, in the order of kind and name."""
        found = [resource for resource in yaml.safe_load_all(self.template(*arguments).stdout) if resource]
        return sorted(found, key=lambda resource: (resource["kind"], resource["metadata"]["name"]))

    def refuses(self, *arguments: str | Path) -> str:
        """Why it does not render."""
        done = self.template(*arguments, check=False)
        assert done.returncode != 0, f"it renders:\n{done.stdout}"
        return done.stderr


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    """Returns the resources of one kind."""
    return [resource for resource in resources if resource["kind"] == kind]


def only(resources: list[Resource], kind: str) -> Resource:
    """The one of its kind."""
    (resource,) = of_kind(resources, kind)
    return resource


def pod_specs(resources: list[Resource]) -> list[Resource]:
    """Returns the specification of every pod that would run: the Deployment's and that of `helm test`."""
    deployed = [deployment["spec"]["template"]["spec"] for deployment in of_kind(resources, "Deployment")]
    return deployed + [pod["spec"] for pod in of_kind(resources, "Pod")]


def containers(spec: Resource) -> list[Resource]:
    """All containers of a pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def assert_valid(resources: list[Resource], directory: Path) -> None:
    """Every resource fits its schema: Kubernetes' own, strictly, on the oldest and the newest; others' as published."""
    own = directory / "own.yaml"
    own.write_text(yaml.safe_dump_all(each for each in resources if each["kind"] not in CUSTOM_KINDS))
    for version in KUBERNETES:
        run(BIN / "kubernetes-validate", "--strict", "--quiet", "-k", version, own)
    custom = [each for each in resources if each["kind"] in CUSTOM_KINDS]
    run(BIN / "node", CRDS / "validate.mjs", stdin=json.dumps(custom))
