# Checks that need no test: style, types, layers, sizes and prose; and the locks.

.PHONY: lint format lock

##@ Check

lint: $(INSTALLED) ## Checks style, types, layers, sizes and docstrings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --package poolshift
	$(BIN)/lint-imports
	$(BIN)/python -m tools.house_rules

format: $(INSTALLED) ## Formats the code and fixes what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(INSTALLED) ## Renews the locks in requirements/ (docs/dependencies.md)
	bash requirements/lock.sh $(BIN)/uv
