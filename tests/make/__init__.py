"""make: what it shows, and what its targets hand on."""
