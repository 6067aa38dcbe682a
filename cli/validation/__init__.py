"""The validation of the migration guide: ten checks of a service and of a copy of it."""
