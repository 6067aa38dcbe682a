# The generators of clients, which the tests of the OpenAPI document run: one for Python, one for TypeScript, and two linters.

# With Node of the ship tools, or the machine's. Without npm, or a network, the tests that need it are skipped and say so.
$(CLIENTS_INSTALLED): $(INSTALLED) requirements/clients.txt $(wildcard $(CLIENTS_SOURCE)/*)
	@export PATH="$(CURDIR)/$(SHIP)/bin:$$PATH" && rm -rf $(CLIENTS) && mkdir -p $(CLIENTS) && \
	$(BIN)/uv venv --quiet --python $(BIN)/python $(CLIENTS)/venv && \
	VIRTUAL_ENV=$(CLIENTS)/venv $(BIN)/uv pip sync --quiet --require-hashes requirements/clients.txt && \
	cp $(CLIENTS_SOURCE)/* $(CLIENTS) && cd $(CLIENTS) && npm ci --ignore-scripts --no-audit --no-fund --silent && \
	touch .installed || echo "$@ could not be made: it takes npm and a network"
