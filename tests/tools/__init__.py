"""The checks in tools/."""
