"""Notifications by webhook: the outbox, the delivery, and the events of ramps and jobs."""
