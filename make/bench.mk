# Poolshift, compiled as in its image, against itself and its peers, in a virtual environment of its own.
# The load generators are Debian's packages wrk and nghttp2-client (h2load). All run on an optimised Python, as the image
# has one, if the machine has one.

BENCH_PYTHON ?= $(shell sh make/optimised.sh $(PYTHON))
BENCH_VENV := .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
BENCH_INSTALLED := $(BENCH_VENV)/.installed
BENCH_BUILD := $(CACHE)/bench-build
# The bench is in no wheel: it lies beside the compiled packages that it measures, as a link.
BENCH_ROOT = $(BENCH_BIN)/python -P -c 'import _poolshift_service; print(_poolshift_service.root())'

.PHONY: bench bench-report bench-ray

# A released run, of which bench/results has one file each.
RESULTS ?= $(lastword $(sort $(wildcard bench/results/*.json)))

##@ Measure

bench: $(BENCH_INSTALLED) ## Measures against peers in under 5 minutes; ARGS="--help" shows the options
	PYTHONPATH=$$($(BENCH_ROOT)) $(BENCH_BIN)/python -P -m bench $(ARGS)

bench-ray: $(INSTALLED) ## Measures pools on a Ray cluster against Ray Serve, in a network of its own (as root)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python "ray[serve]>=2.60,<2.61"
	RAY_USAGE_STATS_ENABLED=0 unshare --net --pid --fork --mount-proc --kill-child \
		$(BIN)/python -m tests.ray.network $(BIN)/python -m bench.on_ray $(ARGS)

bench-report: $(BENCH_INSTALLED) ## Writes the report and the plot of a released run (RESULTS) to bench/results/latest/
	$(BENCH_BIN)/python -m bench.again $(RESULTS) bench/results/latest

# The wheel is compiled on the interpreter that runs it, in an environment that has the developers' packages.
$(BENCH_BUILD)/.built: $(INSTALLED) $(SOURCES)
	@echo "Compiling for $$($(BENCH_PYTHON) --version 2>&1), $(BENCH_PYTHON)"
	$(BIN)/uv venv --quiet --clear --python $(BENCH_PYTHON) $(BENCH_BUILD)/venv
	VIRTUAL_ENV=$(BENCH_BUILD)/venv $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	rm -rf $(@D)/wheel
	for project in . packaging/poolshift; do \
		POOLSHIFT_COMPILE=1 $(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BENCH_BUILD)/venv/bin/python \
			--out-dir $(@D)/wheel $$project || exit 1; \
	done
	touch $@

$(BENCH_INSTALLED): $(BENCH_BUILD)/.built requirements/bench.txt
	$(BIN)/uv venv --quiet --clear --python $(BENCH_PYTHON) $(BENCH_VENV)
	VIRTUAL_ENV=$(BENCH_VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/bench.txt
	VIRTUAL_ENV=$(BENCH_VENV) $(BIN)/uv pip install --quiet --no-deps $(<D)/wheel/*.whl
	ln -s $(CURDIR)/bench $$($(BENCH_ROOT))
	touch $@
