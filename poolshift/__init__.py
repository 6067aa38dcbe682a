"""Everything of ours that a user's process imports."""
