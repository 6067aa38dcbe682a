"""`poolshift`: serve, and steer a service that runs."""

import sys

import typer

from app.auth import InvalidKeyFile
from app.logs import configure_logs
from app.server import serve as serve_app
from cli.bench import bench
from config.settings import InvalidSettings, load_settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

app.command()(bench)


@app.callback()
def poolshift() -> None:
    """Programs on pools of Python workers, moved from one engine to the next."""


@app.command()
def serve() -> None:
    """Runs the service; the environment has its settings (docs/configuration.md)."""
    try:
        settings = load_settings()
        configure_logs(settings.log_format)
        started = serve_app(settings)
    except (InvalidSettings, InvalidKeyFile) as error:
        print(f"poolshift: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if not started:
        raise typer.Exit(1)


def main() -> None:
    """The console script."""
    app()
