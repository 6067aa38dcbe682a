# The service on this machine.

.PHONY: run migration

# The folder to serve, with its .env: this one, or one of your own (`poolshift init`).
FOLDER ?= .

# The file with what programs import (docs/programs.md): the folder's own, if it names a package. It is installed beside the
# service's own packages, so that neither gets the other's versions.
ifeq ($(origin REQUIREMENTS),undefined)
REQUIREMENTS := $(shell grep -qsE '^[^\#[:space:]]' $(FOLDER)/requirements.txt && echo $(FOLDER)/requirements.txt)
endif
EXAMPLE ?= code
ifneq ($(REQUIREMENTS),)
PACKAGES := $(abspath $(CACHE))/packages/$(subst /,+,$(abspath $(REQUIREMENTS)))
WORKERS_PATH = PYTHONPATH="$(PACKAGES)$${PYTHONPATH:+:$$PYTHONPATH}"

$(PACKAGES)/.installed: $(REQUIREMENTS) $(INSTALLED)
	@echo "Installing $(REQUIREMENTS) for the workers"
	@rm -rf $(@D)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(@D) -r $(REQUIREMENTS)
	@touch $@

$(REQUIREMENTS):
	$(error REQUIREMENTS=$(REQUIREMENTS): there is no such file)
endif

##@ Run

run: $(INSTALLED) $(PACKAGES:%=%/.installed) ## Serves on 127.0.0.1:8000; FOLDER names a folder of yours, REQUIREMENTS what programs need
	@cd $(FOLDER) && $(WORKERS_PATH) LM_MODEL=$${LM_MODEL-$$(grep -qs "^LM_MODEL=" .env || echo local)} \
		exec $(abspath $(BIN))/poolshift serve --reload

migration: $(INSTALLED) ## Ramps an example of a migration with generated traffic (EXAMPLE=code; docs/pools.md has all)
	@$(BIN)/python examples/migrations/run.py $(EXAMPLE)
