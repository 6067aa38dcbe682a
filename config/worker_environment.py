"""The environment of worker processes: everything that programs need, and no secret that they do not."""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from dotenv import dotenv_values

from config.settings import InvalidSettings, Settings

# Programs do not need the service's settings, nor those of its database's and its collector's clients.
_OWN = frozenset(name.upper() for name in Settings.model_fields)
_OWN_PREFIXES = ("PG", "OTEL_", "LM_")
_SET = {
    # LiteLLM, underneath DSPy, would otherwise fetch its price list from the network on import.
    "LITELLM_LOCAL_MODEL_COST_MAP": "true",
    # For an LM that takes no URLs, LiteLLM would fetch a client's image from the worker; 0 forbids that.
    "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "0",
    "PYTHONUNBUFFERED": "1",
}
_SECRET = re.compile(r"(SECRET|TOKEN(_|$)|PASSWORD|PASSWD|CREDENTIAL|PRIVATE|(^|_)KEY|_DSN$|API_?KEY)", re.IGNORECASE)


def worker_environment(environment: Mapping[str, str], passed_on: Iterable[str]) -> dict[str, str]:
    """Makes the environment for workers.

    Left out are the service's own settings and whatever a name marks as a secret, except the names in `passed_on`
    (`WORKER_ENV`). The rest (PATH, PYTHONPATH, proxies, locale, …) stays.
    """
    wanted = frozenset(name.strip() for name in passed_on)
    kept = {name: value for name, value in environment.items() if name in wanted or not is_withheld(name)}
    return kept | _SET


def with_hash_seed(environment: Mapping[str, str]) -> dict[str, str]:
    """Adds a random `PYTHONHASHSEED`, if there is none, the same for all workers.

    Otherwise each pool's workers would have a seed of their own. The order of a set of texts, and outputs that depend
    on it, would differ between V1 and V2 for no other reason.
    """
    return {"PYTHONHASHSEED": str(secrets.randbelow(2**32)), **environment}


def variables_of(path: Path) -> dict[str, str]:
    """Reads the variables of a dotenv file (`WORKER_ENV_FILE`), which come on top of an environment.

    Raises:
        InvalidSettings: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            given = dotenv_values(stream=file, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"WORKER_ENV_FILE={path}: {getattr(error, 'strerror', None) or error}") from None
    return {name: value for name, value in given.items() if value is not None}


def digest_of(variables: Mapping[str, str]) -> str:
    """Returns a digest that tells other variables apart, without their values."""
    return hashlib.sha256(msgspec.json.encode(sorted(variables.items()))).hexdigest()


def is_withheld(name: str) -> bool:
    """Says if a variable of this name is kept from workers, unless `WORKER_ENV` names it."""
    return name in _OWN or name.startswith(_OWN_PREFIXES) or _SECRET.search(name) is not None
