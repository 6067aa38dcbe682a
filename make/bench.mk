# Poolshift, compiled as in its image, against itself and its peers, in a virtual environment of its own.
# The load generators are Debian's packages wrk and nghttp2-client (h2load).

BENCH_VENV := .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
BENCH_INSTALLED := $(BENCH_VENV)/.installed

.PHONY: bench bench-report

# A released run, of which bench/results has one file each.
RESULTS ?= $(lastword $(sort $(wildcard bench/results/*.json)))

##@ Measure

bench: $(BENCH_INSTALLED) ## Measures against peers in under 5 minutes; ARGS="--help" shows the options
	$(BENCH_BIN)/poolshift bench $(ARGS)

bench-report: $(BENCH_INSTALLED) ## Writes the report and the plot of a released run (RESULTS) to bench/results/latest/
	$(BENCH_BIN)/python -m bench.again $(RESULTS) bench/results/latest

$(BENCH_INSTALLED): $(WHEEL) requirements/bootstrap.txt requirements/bench.txt
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	VIRTUAL_ENV=$(BENCH_VENV) $(BENCH_BIN)/uv pip sync --quiet --require-hashes requirements/bench.txt
	VIRTUAL_ENV=$(BENCH_VENV) $(BENCH_BIN)/uv pip install --quiet --no-deps $(<D)/*.whl
	touch $@
