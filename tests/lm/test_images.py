"""Images that a client names: no worker fetches them, whatever the LM's provider takes."""

import subprocess
import sys

import pytest

from config.worker_environment import worker_environment
from tests.lm.lazily import needs_dspy
from tests.support.receiver import running_receiver

pytestmark = needs_dspy

FETCH = """
import sys
import litellm
from litellm.litellm_core_utils.prompt_templates.image_handling import convert_url_to_base64

litellm.user_url_validation = False  # its own guard, which stops at loopback before the setting does
try:
    print(convert_url_to_base64(sys.argv[1]))
except litellm.ImageFetchError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("is_allowed", [False, True])
def test_litellm_fetches_no_image_in_a_worker(is_allowed: bool) -> None:
    """For a provider that takes no URLs it would; so it does if the operator allows it, and only then."""
    allowed = {"MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "1"} if is_allowed else {}
    environment = worker_environment({}, ()) | allowed
    with running_receiver() as receiver:
        command = [sys.executable, "-c", FETCH, f"{receiver.url}/1.png"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        assert ran.stdout.startswith("refused:"), ran.stdout + ran.stderr
        assert ("disabled" in ran.stdout) is not is_allowed
        assert bool(receiver.deliveries) is is_allowed
