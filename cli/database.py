"""`poolshift db`: the database's schema."""

import typer

from cli.migrate import migrate

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Brings the database's schema up to date.")
app.command("upgrade")(migrate)


@app.callback()
def database() -> None:
    """Makes `upgrade` a command of its own: Typer runs a lone command without its name."""
