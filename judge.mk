# The judge's own checks: simulated ramps with fixed seeds, and the pictures of docs/judge.md.

.PHONY: test-judge judge-pictures

test-judge: $(INSTALLED) ## Simulates ramps and asserts the judge's goals (minutes, one core)
	$(BIN)/pytest -m judge tests/judge $(ARGS)

judge-pictures: $(INSTALLED) ## Draws the pictures of docs/judge.md again
	$(BIN)/python -m bench.judge.pictures docs/pictures
