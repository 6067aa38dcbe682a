"""`python -m cli` is `poolshift`."""

from cli.main import main

main()
