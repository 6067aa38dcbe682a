"""A node of a cluster: the agent that runs zygotes there for a service on another machine."""
