"""Single parts, without processes."""
