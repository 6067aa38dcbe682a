# The image and the lists of its parts.

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's time, so that one commit gives one image and one chart.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
CREATED = $(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)

BUILDER ?= $(call first,docker podman buildah)
BUILD_FLAGS ?=
# Optional groups, each a lock in requirements/: flags, lm, local-model, ray.
EXTRAS ?=
IMAGE ?= poolshift:$(VERSION)$(subst $(eval) ,,$(EXTRAS:%=-%))
SAVE ?= $(call first,docker podman) save

# Of the commit that is built: as flags, since Podman and Buildah take a LABEL of build arguments from their cache.
OCI := org.opencontainers.image
LABELS = version=$(VERSION) revision=$(REVISION) created=$(CREATED)

DIST := dist

.PHONY: image sbom notices

##@ Ship

image: ## Builds the image poolshift:VERSION; EXTRAS names optional groups
	$(BUILDER) build $(BUILD_FLAGS) --tag $(IMAGE) --build-arg EXTRAS="$(EXTRAS)" $(LABELS:%=--label $(OCI).%) .

sbom: $(SHIP_INSTALLED) ## Lists the image's parts, Debian's packages included, as CycloneDX in dist/
	mkdir -p $(DIST)
	$(SAVE) -o $(DIST)/image.tar $(IMAGE)
	$(SHIP)/bin/trivy image --quiet --input $(DIST)/image.tar --format cyclonedx --output $(DIST)/poolshift-$(VERSION).cdx.json
	rm $(DIST)/image.tar

notices: $(INSTALLED) ## Writes the licences of all runtime packages to dist/ (the image has its own copy)
	mkdir -p $(DIST)
	$(PYTHON) -m venv --clear $(SHIP)/runtime
	VIRTUAL_ENV=$(SHIP)/runtime $(BIN)/uv pip sync --quiet --require-hashes requirements/base.txt $(EXTRAS:%=requirements/%.txt)
	$(BIN)/python deploy/notices.py $(SHIP)/runtime > $(DIST)/THIRD-PARTY-NOTICES-$(VERSION)
