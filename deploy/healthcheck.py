#!/usr/bin/env python3
"""The image's HEALTHCHECK: exit code 0 where `/readyz` says that the service can serve, else 1 and why."""

import http.client
import os
import sys

# What a service that listens on every address is asked on.
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  nothing is bound here
_TIMEOUT_S = 2


def main() -> str | None:
    """Returns the reason why the service is not ready, or None."""
    host = os.environ.get("HOST", "")
    connection = http.client.HTTPConnection(
        _EVERY_ADDRESS.get(host, host), int(os.environ.get("PORT", "8000")), timeout=_TIMEOUT_S
    )
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    return None if answer.status == http.client.OK else f"{answer.status}: {body}"


if __name__ == "__main__":
    sys.exit(main())
