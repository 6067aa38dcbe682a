"""Ray Serve: its HTTP proxy on the head, replicas on the nodes. `POST /execute`."""

import os
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from bench.peers import environment


class Program:
    """Runs the program."""

    def __init__(self) -> None:
        self._program = environment.program()

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.method == "GET":
            return {"is_ready": True}
        call = await request.json()
        return {"outputs": self._program(**call["inputs"])}


if __name__ == "__main__":
    variables = {name: os.environ[name] for name in (environment.ENTRYPOINT, "PYTHONPATH")}
    ray.init(address=environment.ray_address(), log_to_driver=False, runtime_env={"env_vars": variables})
    serve.start(http_options={"host": "127.0.0.1", "port": environment.port(), "location": "HeadOnly"})
    deployment: Any = serve.deployment(
        num_replicas=environment.workers(), ray_actor_options={"num_cpus": 0}, max_ongoing_requests=100
    )
    serve.run(deployment(Program).bind(), route_prefix="/execute")
    while True:
        time.sleep(60)
