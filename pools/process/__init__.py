"""The service's side of one worker process."""
