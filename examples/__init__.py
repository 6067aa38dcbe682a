"""Programs to try and to copy: text work on the standard library alone, and a DSPy module."""
