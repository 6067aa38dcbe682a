"""Runs tests of the service with its V2 on a Ray cluster of two nodes, in a network of its own:

make test-service-on-ray ARGS="tests/service -k stream"

It skips those that cannot hold there (tests/ray/not_on_ray.py).
"""

import os
import subprocess
import sys

from tests.ray.cluster import running_cluster
from tests.support.service import ROOT


def main() -> int:
    """Returns the status of pytest."""
    with running_cluster(2) as cluster:
        environment = {**os.environ, "SUITE_RAY_ADDRESS": cluster.address, "POOL_VERSION": "v2"}
        options = ["-p", "no:cacheprovider", "-p", "tests.ray.not_on_ray"]
        command = [sys.executable, "-m", "pytest", *options, *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
