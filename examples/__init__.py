"""Programs to try and to copy: real text work on the standard library alone."""
