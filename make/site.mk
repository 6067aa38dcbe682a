# The site: the pages of docs/ and of the root, the references from docstrings, and the OpenAPI document.

SITE_TOOLS := $(CACHE)/site-tools
SITE_SOURCE := $(CACHE)/site
SITE ?= $(DIST)/site

.PHONY: site

site: $(INSTALLED) $(SITE_TOOLS)/.installed ## Builds the site in dist/site; a dead link ends it
	$(BIN)/python -m tools.site_source $(SITE_SOURCE)
	$(SITE_TOOLS)/bin/zensical build --strict --config-file $(SITE_SOURCE)/zensical.toml
	rm -rf $(SITE) && mkdir -p $(dir $(SITE)) && cp -r $(SITE_SOURCE)/site $(SITE)

$(SITE_TOOLS)/.installed: $(INSTALLED) requirements/site.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	VIRTUAL_ENV=$(@D) $(BIN)/uv pip sync --quiet --require-hashes requirements/site.txt
	touch $@
