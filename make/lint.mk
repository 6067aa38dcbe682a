# Checks that need no test: style, types, layers, sizes and prose; the half of the client that is generated; and the locks.

.PHONY: lint format client lock

##@ Check

lint: $(INSTALLED) ## Checks style, types, layers, sizes and docstrings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --package poolshift
	$(BIN)/lint-imports
	$(BIN)/python -m tools.house_rules
	$(BIN)/python -m tools.sync_client --check

format: $(INSTALLED) ## Formats the code and fixes what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

client: $(INSTALLED) ## Writes the client's half for threads from its half for asyncio
	$(BIN)/python -m tools.sync_client

lock: $(INSTALLED) ## Renews the locks in requirements/ (docs/dependencies.md)
	bash requirements/lock.sh $(BIN)/uv
