"""The `poolshift` command as an operator runs it: the console script, against a real service."""
