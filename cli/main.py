"""`poolshift`: serves, and controls a running service."""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.errors import CommandFailed, ExitCode, printable

MODULES = {
    "rollout": "cli.rollout.commands",
    "migration": "cli.migration",
    "pools": "cli.pools",
    "programs": "cli.programs.commands",
    "executions": "cli.executions",
    "sessions": "cli.sessions",
    "lm": "cli.lms",
    "failures": "cli.health:failures_app",
    "health": "cli.health:health_app",
    "keys": "cli.keys",
    "judge": "cli.rollout.judge",
    "shadow": "cli.rollout.shadow",
    "db": "cli.database",
    "migrate": "cli.migrate",
    "init": "cli.programs.init",
    "completion": "cli.completion",
}
"""Commands that are imported when they are named; a module has its `app`, unless the name of another is given."""


class LazyGroup(TyperGroup):
    """Imports no command but the one that is named: `serve` starts without HTTP client and tables, they without it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the help."""
        return list(dict.fromkeys([*super().list_commands(ctx), *MODULES]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported if need be."""
        if cmd_name in MODULES and cmd_name not in self.commands:
            module, _, name = MODULES[cmd_name].partition(":")
            app = getattr(import_module(module), name or "app")
            self.add_command(typer.main.get_command(app), cmd_name)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(cls=LazyGroup, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def poolshift(
    context: typer.Context,
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Runs programs on pools of Python workers, and moves their traffic from one engine to the next."""
    if show_version:
        print(f"poolshift {version('poolshift')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(ExitCode.USAGE)


@app.command()
def serve(
    *,
    reload: Annotated[bool, typer.Option("--reload", help="Reload the pools when the programs' code changes.")] = False,
) -> None:
    """Runs the service; the environment has its settings (docs/configuration.md)."""
    # Imported here, since the other commands do without the server and are quicker for it.
    from app.listening import CannotListen, PortTaken  # noqa: PLC0415
    from app.logs import configure_logs  # noqa: PLC0415
    from app.server import serve as serve_app  # noqa: PLC0415
    from config.api_keys import InvalidKeyFile  # noqa: PLC0415
    from config.secret_key import InvalidSecretKey  # noqa: PLC0415
    from config.settings import InvalidSettings, load_settings  # noqa: PLC0415

    try:
        settings = load_settings()
        if reload:
            settings = settings.model_copy(update={"reload": True})
        configure_logs(settings.log_format, settings.log_level)
        started = serve_app(settings)
    except PortTaken as error:
        raise CommandFailed(ExitCode.CONFLICT, str(error)) from None
    except InvalidKeyFile as error:
        raise CommandFailed(
            ExitCode.USAGE, f"API_KEYS_FILE={error} (`poolshift keys create` makes such a file)"
        ) from None
    except InvalidSecretKey as error:
        raise CommandFailed(ExitCode.USAGE, f"SECRET_KEY_FILE={error}") from None
    except (InvalidSettings, CannotListen) as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None
    if not started:
        raise typer.Exit(1)


def main() -> None:
    """The console script."""
    try:
        exit_code = app(prog_name="poolshift", standalone_mode=False)
    except CommandFailed as failure:
        exit_code = _failed(failure.exit_code, str(failure))
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see '{context.command_path} --help')" if context is not None else ""
        exit_code = _failed(error.exit_code, error.format_message().removesuffix(".") + hint)
    sys.exit(exit_code)


def _failed(exit_code: int, message: str) -> int:
    print(f"poolshift: {printable(message)}", file=sys.stderr)
    return exit_code
