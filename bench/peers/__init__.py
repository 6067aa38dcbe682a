"""The peers as their own documentation would have them, each a server that runs one program (see `environment`)."""
