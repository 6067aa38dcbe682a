"""The version of this service, as its package says, and which of its forms this is."""

from importlib.metadata import version

from routing import router

VERSION = version("poolshift-service")
IS_COMPILED = not str(router.__file__).endswith(".py")
"""True if the hot path is compiled, as in the image (docs/adr/0007)."""
