# The judge's own checks: simulated ramps with fixed seeds, and the pictures of docs/judge.md.

.PHONY: test-judge test-story judge-pictures

test-judge: $(INSTALLED) ## Simulates ramps, asserts the judge's goals, ramps and validates real services (many minutes)
	$(BIN)/pytest -m judge tests/judge tests/service $(ARGS)

test-story: $(INSTALLED) ## Runs docs/tutorial.md as a newcomer would; no call may fail (ten minutes; needs PyPI)
	$(BIN)/pytest -m judge tests/story $(ARGS)

judge-pictures: $(INSTALLED) ## Draws the pictures of docs/judge.md again
	$(BIN)/python -m bench.judge.pictures docs/pictures
