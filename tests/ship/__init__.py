"""Image, chart and compose file, for real."""
