"""Workers on the nodes of a Ray cluster: the interface of `pools.process.interface` over agents."""
