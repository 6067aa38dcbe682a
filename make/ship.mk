# The tests that build and run the image and the chart, and the tools that they need.

.PHONY: ship-tools test-ship ship-snapshots

ship-tools: ## Installs the tools of test-ship, Debian's packages included (as root)
	bash tests/ship/tools.sh debian
	$(MAKE) $(SHIP_INSTALLED)

test-ship: $(INSTALLED) $(SHIP_INSTALLED) ## Builds and runs the image and the chart (make ship-tools first)
	bash tests/ship/tools.sh check
	sh make/steady.sh $(BIN)/pytest ship -m ship tests/ship --ignore=tests/ship/test_dist.py $(ARGS)

ship-snapshots: $(INSTALLED) $(SHIP_INSTALLED) ## Renews the snapshots of the chart's templates
	UPDATE_SNAPSHOTS=1 $(BIN)/pytest -m ship tests/ship/test_snapshots.py

$(SHIP_INSTALLED): $(INSTALLED) requirements/ship.txt requirements/ship-binaries.txt tests/ship/tools.sh \
		tests/ship/crds/package-lock.json tests/ship/crds/validate.mjs
	bash tests/ship/tools.sh python $(BIN)/uv $(SHIP)
	touch $@
