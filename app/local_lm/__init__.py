"""The small language model that the service runs itself: its process, and what keeps that alive."""
