"""The resources of the HTTP API, one file each, with their views."""
