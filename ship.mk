# What is handed to others: the image, the chart, the list of their parts, and the tests that really run them.

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's time, so that one commit gives one image and one chart.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
CREATED = $(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)

# The first of some commands that is there.
first = $(shell for name in $(1); do command -v $$name && break; done)

BUILDER ?= $(call first,docker podman buildah)
BUILD_FLAGS ?=
# Optional groups, each a lock in requirements/: flags, lm, local-model.
EXTRAS ?=
IMAGE ?= poolshift:$(VERSION)$(subst $(eval) ,,$(EXTRAS:%=-%))

# Of the commit that is built: as flags, since Podman and Buildah take a LABEL of build arguments from their cache.
OCI := org.opencontainers.image
LABELS = version=$(VERSION) revision=$(REVISION) created=$(CREATED)

DIST := dist
# Helm, hadolint, trivy and the others that test-ship works with, of the versions that their locks name.
SHIP := .cache/ship
SHIP_INSTALLED := $(SHIP)/.installed
HELM ?= $(firstword $(call first,helm) $(SHIP)/bin/helm4)
SAVE ?= $(call first,docker podman) save

.PHONY: image chart chart-files sbom notices ship-tools test-ship ship-snapshots

image: ## Builds the image poolshift:VERSION; EXTRAS names optional groups to have in it
	$(BUILDER) build $(BUILD_FLAGS) --tag $(IMAGE) --build-arg EXTRAS="$(EXTRAS)" $(LABELS:%=--label $(OCI).%) .

# A chart has nothing from outside of its folder: dashboards and rules are copied in, and are no files of the repository.
chart-files:
	rm -rf helm/files
	mkdir -p helm/files/dashboards helm/files/rules
	cp dashboards/*.json helm/files/dashboards/
	cp dashboards/rules/*.yaml helm/files/rules/

chart: chart-files ## Packages the chart, with dashboards and rules, as dist/poolshift-VERSION.tgz
	$(if $(wildcard $(HELM)),,$(MAKE) $(SHIP_INSTALLED))
	mkdir -p $(DIST)
	$(HELM) package helm --version $(VERSION) --app-version $(VERSION) --destination $(DIST)

sbom: $(SHIP_INSTALLED) ## Lists what is in the image, Debian's packages too, as CycloneDX in dist/
	mkdir -p $(DIST)
	$(SAVE) -o $(DIST)/image.tar $(IMAGE)
	$(SHIP)/bin/trivy image --quiet --input $(DIST)/image.tar --format cyclonedx --output $(DIST)/poolshift-$(VERSION).cdx.json
	rm $(DIST)/image.tar

notices: $(INSTALLED) ## Writes the licences of all that the service runs on to dist/ (the image has its own)
	mkdir -p $(DIST)
	$(PYTHON) -m venv --clear $(SHIP)/runtime
	VIRTUAL_ENV=$(SHIP)/runtime $(BIN)/uv pip sync --quiet --require-hashes requirements/base.txt $(EXTRAS:%=requirements/%.txt)
	$(BIN)/python deploy/notices.py $(SHIP)/runtime > $(DIST)/THIRD-PARTY-NOTICES-$(VERSION)

ship-tools: ## Installs what test-ship needs, Debian's packages too (as root)
	bash tests/ship/tools.sh debian
	$(MAKE) $(SHIP_INSTALLED)

test-ship: $(INSTALLED) $(SHIP_INSTALLED) ## Builds and runs image and chart for real (make ship-tools first)
	bash tests/ship/tools.sh check
	$(BIN)/pytest -m ship tests/ship $(ARGS)

ship-snapshots: $(INSTALLED) $(SHIP_INSTALLED) ## Renews the templates' snapshots; look at the difference
	UPDATE_SNAPSHOTS=1 $(BIN)/pytest -m ship tests/ship/test_snapshots.py

$(SHIP_INSTALLED): $(INSTALLED) requirements/ship.txt requirements/ship-binaries.txt tests/ship/tools.sh \
		tests/ship/crds/package-lock.json tests/ship/crds/validate.mjs
	bash tests/ship/tools.sh python $(BIN)/uv $(SHIP)
	touch $@
