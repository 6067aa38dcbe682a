"""One child process that runs programs: plain Python from 3.10 on, with msgspec alone."""
