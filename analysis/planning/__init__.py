"""The reach of a ramp: its power by simulation, what it would find, and the replay of a recorded one."""
