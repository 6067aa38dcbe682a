"""Settings: the defaults of the contract, and one clear line for whatever makes no sense."""

import os
from pathlib import Path

import pytest

from config import settings as settings_module
from config.misnamed import misnamed_settings
from config.settings import InvalidSettings, Settings, load_settings
from config.worker_environment import secrets_of_others, worker_environment

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAA="


@pytest.fixture(autouse=True)
def fresh_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting but the test's own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_defaults() -> None:
    """A first try needs nothing."""
    settings = load_settings()
    assert (settings.host, settings.port, settings.canary_percent, settings.pool_version) == (
        "127.0.0.1",
        8000,
        None,
        None,
    )
    sizes = {settings.pool(version).pool_size for version in settings.pool_versions}
    assert sizes == {2 * len(os.sched_getaffinity(0))}
    assert (settings.queue_limit, settings.checkout_timeout_s, settings.execution_timeout_s) == (1000, 5, 30)
    assert (settings.drain_timeout_s, settings.max_body_bytes, settings.session_ttl_s) == (30, 1024 * 1024, 3600)
    assert settings.allowed_modules == ("examples",)
    assert settings.database_url.get_secret_value() == "sqlite+aiosqlite:///./poolshift.db"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("CANARY_PERCENT", "101"),
        ("CANARY_PERCENT", "-1"),
        ("CANARY_PERCENT", "0.001"),
        ("CANARY_PERCENT", "nan"),
        ("CANARY_PERCENT", "ten"),
        ("POOL_VERSION", "v3"),
        ("V1_POOL_SIZE", "0"),
        ("QUEUE_LIMIT", "-1"),
        ("CHECKOUT_TIMEOUT_S", "0"),
        ("EXECUTION_TIMEOUT_S", "inf"),
        ("MAX_BODY_BYTES", "99999999999"),
        ("PROGRAM_MODULES", "os; rm"),
        ("PROGRAM_MODULES", "a,,b"),
        ("LOG_FORMAT", "xml"),
        ("LM_PRICES", "0.25"),
        ("LM_PRICES", '{"m": {"input": 1}}'),
        ("LM_PRICES", '{"m": {"input": -1, "output": 2}}'),
        ("LM_PRICES", '{"m": {"input": NaN, "output": 2}}'),
        ("LM_PRICES", '{"m": {"input": 1, "output": 2, "cached": 3}}'),
        ("LM_PRICES", "{"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The variable, its value, and what is wrong with it."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=name) as refused:
        load_settings()
    assert value in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LM_API_KEY", "sk-secret\n"),
        ("LM_API_KEY", "sk secret"),
        ("LM_API_KEY", "sk-sécret"),
        ("LM_API_BASE", "http://me:secret@127.0.0.1/v1"),
        ("LM_API_BASE", "http://127.0.0.1/v1?key=secret"),
        ("LM_API_BASE", "127.0.0.1/secret"),
        ("ROLLOUT_WEBHOOK_URL", "hooks.example.org/secret"),
        ("ROLLOUT_WEBHOOK_URL", "ftp://hooks.example.org/secret"),
        ("ROLLOUT_WEBHOOK_URL", "https:///secret"),
        ("ROLLOUT_WEBHOOK_URL", "http://[secret"),
        ("ROLLOUT_WEBHOOK_SECRET", "secret"),
        ("ROLLOUT_WEBHOOK_SECRET", "whsec_c2VjcmV0"),
        ("ROLLOUT_WEBHOOK_SECRET", "whsec_sécret"),
        ("ROLLOUT_WEBHOOK_SECRET", f"secretwhsec_{'c2VjcmV0' * 5}"),
        ("ROLLOUT_WEBHOOK_SECRET", f"whsec_{'c2VjcmV0' * 12}"),
    ],
)
def test_what_may_be_a_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A key that cannot go into a header, an address with a password: the variable is named, its value is not."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match=f"^{name}: must ") as refused:
        load_settings()
    assert "cret" not in str(refused.value).removesuffix("a secret")


@pytest.mark.parametrize("text", [WEBHOOK_SECRET, f"{WEBHOOK_SECRET}\n", WEBHOOK_SECRET.rstrip("=")])
def test_the_webhooks_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """As editors leave it, with or without padding; and not in the environment as well."""
    file = tmp_path / "secret"
    file.write_text(text)
    monkeypatch.setenv("ROLLOUT_WEBHOOK_SECRET_FILE", str(file))
    secret = load_settings().rollout_signing_secret
    assert secret is not None
    assert secret.get_secret_value() == text.strip()
    monkeypatch.setenv("ROLLOUT_WEBHOOK_SECRET", WEBHOOK_SECRET)
    with pytest.raises(InvalidSettings, match="not both"):
        load_settings()


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("whsec_secret", "must be"), ("", "must be")])
def test_a_wrong_file_of_the_webhooks_secret_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, why: str
) -> None:
    """In one line that names the file and shows nothing of what it holds."""
    file = tmp_path / "hook"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("ROLLOUT_WEBHOOK_SECRET_FILE", str(file))
    with pytest.raises(InvalidSettings, match=f"^ROLLOUT_WEBHOOK_SECRET_FILE={file}: {why}") as refused:
        load_settings()
    assert "secret" not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user of a process")
def test_nothing_is_preloaded_for_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that are imported ahead of the workers would run with the rights of the service."""
    monkeypatch.setenv("WORKER_USER", "nobody")
    monkeypatch.setenv("PRELOAD", "json")
    with pytest.raises(InvalidSettings, match="PRELOAD and WORKER_USER exclude each other"):
        load_settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_it_runs_open_on_loopback(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Only this machine can reach it there."""
    monkeypatch.setenv("HOST", host)
    assert load_settings().host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "poolshift.example.org"])
def test_it_does_not_run_open_anywhere_else(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Unless that is meant."""
    monkeypatch.setenv("HOST", host)
    with pytest.raises(InvalidSettings, match="API_KEYS_FILE"):
        load_settings()
    monkeypatch.setenv("ALLOW_ANONYMOUS", "true")
    assert load_settings().host == host


def test_a_dotenv_file_counts_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everyone expects."""
    Path(".env").write_text("PORT=8001\nQUEUE_LIMIT=7\n")
    monkeypatch.setenv("PORT", "8002")
    assert (load_settings().port, load_settings().queue_limit) == (8002, 7)


def test_a_workers_environment() -> None:
    """Our settings and whatever looks like a secret stay behind, unless passed on by name."""
    environment = {
        "PATH": "/bin",
        "PYTHONPATH": "mine",
        "TOKENIZERS_PARALLELISM": "false",
        "DATABASE_URL": "x",
        "API_KEYS_FILE": "x",
        "OPENAI_API_KEY": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "GITHUB_TOKEN": "x",
        "PGPASSWORD": "x",
        "ROLLOUT_WEBHOOK_SECRET": "x",
        "ROLLOUT_WEBHOOK_SECRET_FILE": "x",
        "ROLLOUT_WEBHOOK_URL": "x",
        "OTEL_EXPORTER_OTLP_HEADERS": "x",
    }
    kept = worker_environment(environment, ["OPENAI_API_KEY"])
    assert {name for name in kept if name in environment} == {
        "PATH",
        "PYTHONPATH",
        "TOKENIZERS_PARALLELISM",
        "OPENAI_API_KEY",
    }


@pytest.mark.parametrize(
    "name",
    """
    POSTGRES_URL POSTGRESQL_URI REDIS_URL REDIS_TLS_URL MONGODB_URI CLOUDAMQP_URL CELERY_BROKER_URL DB_URL MY_SQL_URL
    DB_PASS DB_PASS_RO MYSQL_PWD SMTP_PW GPG_PASSPHRASE GITHUB_PAT GH_PAT AZURE_DEVOPS_EXT_PAT DSN SENTRY_DSN redis_auth
    SSH_AUTH_SOCK DOCKER_AUTH_CONFIG MY_CREDS JWT STORAGE_SAS SLACK_WEBHOOK_URL AZURE_STORAGE_CONNECTION_STRING
    """.split(),
)
def test_names_of_secrets(name: str) -> None:
    """Each is withheld, named at the start, and passed on if the operator says so."""
    environment = {name: "x"}
    assert name not in worker_environment(environment, [])
    assert worker_environment(environment, [name])[name] == "x"
    assert secrets_of_others({**environment, "LM_API_KEY": "x", "DATABASE_URL": "x", "PATH": "x"}, []) == [name]
    assert secrets_of_others(environment, [name]) == []


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("PWD", "/srv", True),
        ("OLDPWD", "/srv", True),
        ("GIT_ASKPASS", "/bin/askpass", True),
        ("COMPASS_MODE", "x", True),
        ("REDIS_HOST", "redis", True),
        ("MODEL_URL", "https://models.example.com/a@1", True),
        ("MODEL_URL", "https://user@models.example.com:8443/a", True),
        ("MODEL_URL", "https://user:hunter2@models.example.com", False),
        ("RESULT_BACKEND", "redis://:hunter2@cache:6379/0", False),
        ("SEARCH", "hosts=http://a:b@one,http://a:b@two", False),
        ("https_proxy", "http://user:hunter2@proxy:3128", True),
        ("ALL_PROXY", "socks5://user:hunter2@proxy", True),
    ],
)
def test_values_with_a_password(name: str, value: str, *, is_kept: bool) -> None:
    """A URL with a password is one whatever the variable is called; a proxy's programs cannot do without."""
    assert (name in worker_environment({name: value}, [])) is is_kept


def test_a_version_has_its_own_lm_or_everyones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting by itself, but for the key: it goes to no endpoint that it was not set for."""
    everyones = {"LM_MODEL": "openai/a", "LM_API_BASE": "http://127.0.0.1:1/v1", "LM_API_KEY": "sk-a"}
    for name, value in {**everyones, "V1_LM_MODEL": "openai/b", "V2_LM_API_BASE": "http://127.0.0.1:2/v1"}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    v1, v2, all_of_them = settings.lm_of("v1"), settings.lm_of("v2"), settings.lm_of(None)
    assert (v1.model, v1.api_base, v1.api_key) == ("openai/b", all_of_them.api_base, all_of_them.api_key)
    assert (v2.model, v2.api_base, v2.api_key) == ("openai/a", "http://127.0.0.1:2/v1", None)
    assert [settings.has_lm_of(version) for version in ("v1", "v2")] == [True, True]
    monkeypatch.setenv("V2_LM_API_KEY", "sk-b")
    key = load_settings().lm_of("v2").api_key
    assert key is not None
    assert key.get_secret_value() == "sk-b"
    assert not {name for name in worker_environment(os.environ, ()) if "LM_" in name} & {*everyones, "V2_LM_API_KEY"}
    for name in ("V1_LM_MODEL", "V2_LM_API_BASE", "V2_LM_API_KEY"):
        monkeypatch.delenv(name)
    assert not any(load_settings().has_lm_of(version) for version in ("v1", "v2"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("V2_PYTHN", "V2_PYTHON"),
        ("V1_PROGRAM_DIR", "V1_PROGRAMS_DIR"),
        ("V2_ENV", "V2_ENGINE"),
        ("V2_PYTHON", None),
        ("V2_SERVICE_HOST", None),
        ("V2_PORT_8000_TCP_ADDR", None),
        ("PYTHN", None),
    ],
)
def test_a_misnamed_setting_of_a_pool_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str | None
) -> None:
    """In the environment or in `.env`: the pools would be alike, and the judge would find no difference."""
    assert not [one for one in misnamed_settings() if one == name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"{name}=x\n")
    in_file = misnamed_settings()
    (tmp_path / ".env").unlink()
    monkeypatch.setenv(name, "x")
    assert misnamed_settings() == in_file
    assert (meant in in_file[name]) if meant is not None else name not in in_file


@pytest.mark.parametrize("name", ["WORKERS", "V1_WORKERS", "V2_WORKERS"])
def test_workers_on_ray_need_the_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without it one line says how to install it."""
    monkeypatch.setattr(settings_module, "find_spec", lambda _: None)
    monkeypatch.setenv(name, "ray")
    with pytest.raises(InvalidSettings, match=r"needs the package ray: pip install"):
        load_settings()


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "local", "head", "head:0", "head:65536"])
def test_an_address_of_ray_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Refused where a pool uses it; other programs may have their own `RAY_ADDRESS`."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    load_settings()
    monkeypatch.setenv("V2_WORKERS", "ray")
    monkeypatch.setattr(settings_module, "find_spec", lambda _: object())
    with pytest.raises(InvalidSettings, match="RAY_ADDRESS"):
        load_settings()


@pytest.mark.parametrize("address", ["auto", "head:6379", "10.0.0.5:6379", "[fd00::1]:6379"])
def test_an_address_of_ray(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A name or an address, with the port."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("V2_WORKERS", "ray")
    monkeypatch.setattr(settings_module, "find_spec", lambda _: object())
    assert load_settings().ray_address == address
