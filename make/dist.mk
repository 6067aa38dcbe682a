# The packages: wheels of both distributions for any Python, wheels with the hot path compiled for each of PYTHONS, and
# sdists. Two builds of one commit are the same bytes: each file has the time of the commit.

DIST_TOOLS := $(CACHE)/dist-tools
LINUX_WHEELS := $(CACHE)/linux-wheels
PYTHONS ?= $(shell sh make/pythons.sh)

.PHONY: dist test-dist

dist: $(INSTALLED) $(DIST_TOOLS)/.installed ## Builds and checks wheels and sdists in dist/, compiled for each Python here with headers (PYTHONS)
	rm -rf $(LINUX_WHEELS) $(DIST)/poolshift*.whl $(DIST)/poolshift*.tar.gz
	for version in $(PYTHONS); do $(MAKE) --no-print-directory $(CACHE)/build$$version/.installed || exit; done
	export SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH); for project in packaging/poolshift .; do \
		$(UV_BUILD) --python $(BIN)/python --out-dir $(DIST) $$project || exit; \
		for version in $(PYTHONS); do \
			POOLSHIFT_COMPILE=1 $(UV_BUILD) --python $(CACHE)/build$$version/bin/python --wheel --out-dir $(LINUX_WHEELS) $$project || exit; \
		done; \
	done
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) PATH="$(CURDIR)/$(DIST_TOOLS)/bin:$$PATH" auditwheel repair --wheel-dir $(DIST) $(LINUX_WHEELS)/*.whl
	$(DIST_TOOLS)/bin/twine check --strict $(DIST)/poolshift*.whl $(DIST)/poolshift*.tar.gz
	cd $(DIST) && sha256sum poolshift*.whl poolshift*.tar.gz >SHA256SUMS

test-dist: $(INSTALLED) $(SHIP_INSTALLED) ## Builds the packages twice, compares them, and installs them into empty environments (minutes)
	$(BIN)/pytest -m ship tests/ship/test_dist.py $(ARGS)

UV_BUILD = $(BIN)/uv build --quiet --no-build-isolation --no-create-gitignore

$(DIST_TOOLS)/.installed: $(INSTALLED) requirements/dist.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	VIRTUAL_ENV=$(@D) $(BIN)/uv pip sync --quiet --require-hashes requirements/dist.txt
	touch $@

# What a wheel is compiled with, as in the image.
$(CACHE)/build%/.installed: $(INSTALLED) requirements/build.txt
	$(BIN)/uv venv --quiet --clear --python "$$(command -v python$*)" $(@D)
	VIRTUAL_ENV=$(@D) $(BIN)/uv pip sync --quiet --require-hashes requirements/build.txt
	touch $@
