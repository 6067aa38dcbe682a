"""The rollout flag and its sources."""
