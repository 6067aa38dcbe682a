"""Single services, without processes."""
