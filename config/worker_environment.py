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
_SECRET = re.compile(
    r"SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|PRIVATE|API_?KEY|WEBHOOK|CONN(ECTION)?_?STR|TOKEN(_|$)|(^|_)KEY"
    r"|(^|_)(AUTH|CREDS?|DSN|JWT|PASS|PAT|SAS)(_|$)|_(PW|PWD)$"
    # The URL of a store or a broker has its password.
    r"|(AMQP|BROKER|CELERY|CLICKHOUSE|DATABASE|(^|_)DB|ELASTIC|KAFKA|LDAP|MARIA|MEMCACHE|MONGO|(^|_)NATS|NEO4J|OPENSEARCH"
    r"|ORACLE|POSTGRES|RABBIT|REDIS|SMTP|SNOWFLAKE|SQL|VALKEY)\w*_UR[IL]$",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)
_PROXY = re.compile(r"(all|ftp|https?)_proxy", re.IGNORECASE)
"""Names of variables that programs need to get out at all, with a password or not."""


def worker_environment(environment: Mapping[str, str], passed_on: Iterable[str]) -> dict[str, str]:
    """Makes the environment for workers.

    Left out are the service's own settings and all that `is_secret` tells, except the names in `passed_on`
    (`WORKER_ENV`). The rest (PATH, PYTHONPATH, proxies, locale, …) stays.
    """
    wanted = frozenset(name.strip() for name in passed_on)
    kept = {name: value for name, value in environment.items() if name in wanted or not is_withheld(name, value)}
    return kept | _SET


def secrets_of_others(environment: Mapping[str, str], passed_on: Iterable[str]) -> list[str]:
    """Names the variables that workers do not get and that are none of the service's own: a program may miss them."""
    wanted = frozenset(name.strip() for name in passed_on)
    return sorted(
        name
        for name, value in environment.items()
        if name not in wanted and not _is_own(name) and is_secret(name, value)
    )


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


def is_withheld(name: str, value: str) -> bool:
    """Says if a variable is kept from workers, unless `WORKER_ENV` names it."""
    return _is_own(name) or is_secret(name, value)


def is_secret(name: str, value: str) -> bool:
    """Says if a variable is marked as a secret: by its name, or by a password in the URL that it holds."""
    return _SECRET.search(name) is not None or (
        _PASSWORD_IN_URL.search(value) is not None and _PROXY.fullmatch(name) is None
    )


def _is_own(name: str) -> bool:
    return name in _OWN or name.startswith(_OWN_PREFIXES)
