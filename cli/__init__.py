"""The `poolshift` command."""
