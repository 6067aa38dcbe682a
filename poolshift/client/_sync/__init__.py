# Generated from poolshift/client/_async/__init__.py by `make client`: change that file, not this one.

"""The half of the client that does I/O, for any number of threads."""
