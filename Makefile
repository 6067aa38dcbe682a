# Every target sets up what it needs: Python 3.11 or newer and make are enough. `make help` lists the targets.

.DEFAULT_GOAL := help

include make/environment.mk
include make/run.mk
include make/test.mk
include make/lint.mk
include make/dashboards.mk
include make/clients.mk
include make/console.mk
include make/judge.mk
include make/bench.mk
include make/image.mk
include make/dist.mk
include make/site.mk
include make/chart.mk
include make/ship.mk

.PHONY: help clean

##@ Others

clean: ## Removes the virtual environments and what the tools left
	rm -rf $(VENV) $(BENCH_VENV) $(CACHE) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

# A target with `## ` behind it is listed under the last heading `##@ ` above it.
help: ## Shows this
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "%s%s\n", gap, substr($$0, 5); gap = "\n" } \
	/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(filter-out Makefile,$(MAKEFILE_LIST)) Makefile
